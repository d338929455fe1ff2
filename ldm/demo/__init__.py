"""A page to try a trained model on: what it offers, what it is asked, and the pictures as they form.

Nothing here but `ldm.demo.page` knows Gradio, so all that the page does can be done, and tested, without a browser.
"""
