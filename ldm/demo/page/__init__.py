"""The page itself: what Gradio shows of `ldm.demo`. Gradio is of the extra `demo`; nothing outside of this folder imports it."""
