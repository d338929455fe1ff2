"""The page as a whole, and the server that shows it, which hands out nothing but the page.

Gradio keeps what a visitor uploads in a folder, here one of this page alone that goes with it, and gives it to that visitor
again; no other file can be asked for. It reports its use to its makers unless it is told not to. A browser is told to ask no
other machine for anything.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from html import escape
from typing import Any

import gradio as gr
import PIL.Image

from ldm.demo.limits import Limits
from ldm.demo.page.draw import draw
from ldm.demo.page.fill import fill
from ldm.demo.page.look import STYLE, theme
from ldm.demo.page.pair import pair
from ldm.demo.page.walk import walk
from ldm.demo.studio import Studio

_KEPT = (600, 3600)  # seconds: how often uploads are looked at, and after how many they go
_UPLOAD = "16mb"

Message = MutableMapping[str, Any]


def window(studio: Studio, against: Studio | None, examples: Sequence[PIL.Image.Image]) -> gr.Blocks:
    """The page of a model, and of another beside it."""
    offer = studio.offer
    with gr.Blocks(title=f"{offer.name} · ldm", analytics_enabled=False, delete_cache=_KEPT) as page:
        gr.HTML(f'<div class="masthead"><h1>{escape(offer.name)}</h1><p>{escape(offer.about)}</p></div>')
        with gr.Tabs():
            with gr.Tab("Draw"):
                draw(studio)
            with gr.Tab("Fill in"):
                fill(studio, examples)
            with gr.Tab("Walk"):
                walk(studio)
            if against is not None:
                with gr.Tab("Compare"):
                    pair(studio, against)
    return page


def serve(page: gr.Blocks, limits: Limits, host: str, port: int | None) -> str:
    """Show the page at host and port (the first free one from 7860 on, where none is given); its address, once it is there."""
    page.queue(max_size=limits.waiting, default_concurrency_limit=1, api_open=False)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        allowed_paths=[],
        max_file_size=_UPLOAD,
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        quiet=True,
        theme=theme(),
        css=STYLE,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None, "middleware": [(Inward, (), {})]},
        prevent_thread_lock=True,
    )
    return address


def quiet() -> None:
    """Let Gradio tell nobody that it is used, serve no folder that the environment names, and keep uploads in a folder of this
    process."""
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_SHARE", "GRADIO_EXAMPLES_CACHE", "GRADIO_MCP_SERVER"):
        os.environ.pop(name, None)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    folder = tempfile.mkdtemp(prefix="ldm-demo-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder


class Inward:
    """Tells a browser with every answer to ask no other machine for anything, and to show the page in no other's frame.

    Arguments:
        app: that answers.
    """

    POLICY = (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self.app = app

    async def __call__(self, scope: Message, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"content-security-policy", self.POLICY.encode())]
                message = {**message, "headers": [*headers, (b"referrer-policy", b"no-referrer")]}
            await send(message)

        await self.app(scope, receive, tell)
