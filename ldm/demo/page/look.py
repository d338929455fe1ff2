"""How the page looks: the colours and the letters of a report (ldm.report.page), on a screen or a phone, in light and dark.

Letters are those of the visitor's machine, for a page that asks another machine for a font tells that machine who reads it.
"""

from __future__ import annotations

import gradio as gr

_LETTERS = ("system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif")
_FIXED = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace")

STYLE = """
.gradio-container { --paper: #fdfdfc; --ink: #22262b; --quiet: #6a7179; --line: #e3e5e8; --soft: #f4f5f6; --blue: #2f6fb5;
  --bad: #b3372f; font-variant-numeric: tabular-nums; }
.dark .gradio-container, .gradio-container.dark { --paper: #15181b; --ink: #dfe3e6; --quiet: #949ca4; --line: #2c3136;
  --soft: #1d2125; --blue: #74aee8; --bad: #ef8a80; }
.gradio-container main { width: 100% !important; max-width: 68rem !important; margin: 0 auto !important;
  padding: 2.4rem 1.25rem !important; }
.dark input[type=range] { --neutral-200: #383e45; }
.masthead h1 { font-size: 1.9rem; font-weight: 650; letter-spacing: -.02em; line-height: 1.15; margin: 0 0 .2rem;
  overflow-wrap: anywhere; color: var(--ink); }
.masthead p { color: var(--quiet); margin: 0 0 1rem; }
footer { display: none !important; }
.bench { display: grid !important; grid-template-columns: 19rem minmax(0, 1fr); grid-template-rows: auto 1fr;
  grid-template-areas: "ask view" "dials view"; gap: 1.4rem 2.6rem !important; align-items: start; padding-top: 1.2rem; }
.bench > .ask { grid-area: ask; } .bench > .view { grid-area: view; min-width: 0 !important; }
.bench > .dials { grid-area: dials; } .bench > * { min-width: 0 !important; }
.ask .form, .dials .form { gap: 1.15rem; border: 0; background: none; box-shadow: none; overflow: visible; }
.ask .block, .dials .block { overflow: visible !important; } .seed { align-items: end !important; gap: .5rem !important; }
.seed button { height: 2.6rem; } .ask, .dials { gap: 1.15rem !important; }
.tab-container button { font-weight: 500; padding-left: 0 !important; padding-right: 0 !important; margin-right: 1.6rem; }
.frame { min-height: 10rem; } .frame p { margin: .9rem 0 0; max-width: 44rem; font-size: .9375rem; line-height: 1.5; }
.frame p.note, .frame p.invited { color: var(--quiet); font-size: .875rem; }
.frame p.refused { color: var(--bad); font-size: 1rem; }
.frame p.cannot { color: var(--ink); padding: .9rem 1.1rem; background: var(--soft); border-radius: .5rem; margin: 0; }
.frame h4 { font-size: .875rem; font-weight: 500; color: var(--quiet); margin: 1.3rem 0 .5rem; }
.view .pending { opacity: 1 !important; }
.view [data-testid=status-tracker]:not(.hide) { z-index: 5 !important; background: none !important;
  visibility: visible !important; overflow: visible !important; max-height: none !important; }
.view .progress-text { z-index: 5 !important; top: 0 !important; right: 0 !important; padding: 0 !important;
  transform: none !important; visibility: visible !important; color: var(--quiet) !important; font-family: inherit !important; }
.way { height: 3px; border-radius: 2px; background: var(--line); overflow: hidden; margin-bottom: 1.1rem; }
.way i { display: block; height: 100%; background: var(--blue); transition: width .15s linear; }
.way.done { visibility: hidden; }
.pictures { display: grid; gap: .9rem; }
.pictures.one { grid-template-columns: minmax(0, 22rem); }
.pictures.few { grid-template-columns: repeat(auto-fill, minmax(min(11rem, 42%), 1fr)); max-width: 32rem; }
.pictures.many { grid-template-columns: repeat(auto-fill, minmax(min(7rem, 21%), 1fr)); }
.pictures.several { grid-template-columns: repeat(auto-fill, minmax(min(8.5rem, 42%), 1fr)); }
.pictures.beside { grid-template-columns: repeat(auto-fill, 7rem); }
.pictures.strip { grid-auto-flow: column; grid-auto-columns: minmax(2.2rem, 6rem); justify-content: start; gap: 3px;
  overflow-x: auto; }
.frame figure { margin: 0; } .frame figcaption { font-size: .8125rem; color: var(--quiet); padding-top: .3rem; }
.frame img { width: 100%; height: auto; display: block; border-radius: .3rem; background: var(--soft); }
.pictures.strip img { border-radius: 0; } .frame img.square, .film img { image-rendering: pixelated; }
.film { width: min(16rem, 60vw); margin: 0 0 1.2rem !important; }
@media (max-width: 760px) {
  .gradio-container main { padding: 1.2rem .9rem !important; }
  .bench { grid-template-columns: minmax(0, 1fr); grid-template-areas: "ask" "view" "dials"; gap: 1.2rem !important; }
  .masthead h1 { font-size: 1.5rem; } .frame { min-height: 0; } .pictures.one { grid-template-columns: 1fr; }
}
"""


def theme() -> gr.themes.Base:
    """Gradio's plainest theme in the report's colours."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.gray,
        font=_LETTERS,
        font_mono=_FIXED,
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        **_both("body_background_fill", "#fdfdfc", "#15181b"),
        **_both("background_fill_primary", "#fdfdfc", "#15181b"),
        **_both("block_background_fill", "#fdfdfc", "#15181b"),
        **_both("body_text_color", "#22262b", "#dfe3e6"),
        **_both("body_text_color_subdued", "#6a7179", "#949ca4"),
        **_both("block_label_text_color", "#6a7179", "#949ca4"),
        **_both("block_title_text_color", "#22262b", "#dfe3e6"),
        **_both("block_info_text_color", "#6a7179", "#949ca4"),
        **_both("border_color_primary", "#e3e5e8", "#2c3136"),
        **_both("input_background_fill", "#ffffff", "#1d2125"),
        **_both("input_border_color", "#d5d9de", "#383e45"),
        **_both("button_primary_background_fill", "#2f6fb5", "#3f7fc4"),
        **_both("button_primary_background_fill_hover", "#285f9b", "#4b8bd0"),
        **_both("button_primary_text_color", "#ffffff", "#ffffff"),
        **_both("button_secondary_background_fill", "#f4f5f6", "#1d2125"),
        **_both("button_secondary_background_fill_hover", "#e9ebee", "#262b30"),
        **_both("slider_color", "#2f6fb5", "#74aee8"),
        **_both("button_secondary_text_color", "#22262b", "#dfe3e6"),
        input_border_width="1px",
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_title_text_weight="500",
        button_large_text_weight="550",
    )


def _both(name: str, light: str, dark: str) -> dict[str, str]:
    return {name: light, f"{name}_dark": dark}
