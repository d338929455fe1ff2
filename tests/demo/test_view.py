"""A frame as a piece of a page: whole, without an address of a file, and with a visitor's words as text."""

import PIL.Image
import pytest

from ldm.demo.frame import Frame, Row
from ldm.demo.view import cannot, html, invited, refused
from tests.report.page import Page

EVIL = "<script>alert(1)</script>"


def row(n, side=32, **words):
    return Row([PIL.Image.new("RGB", (side, side), "red")] * n, **words)


def test_words_are_text_and_pictures_are_within():
    frame = Frame([row(2, words=(EVIL, "b"), title=EVIL), row(3)], left=0.25, note=EVIL, film=b"GIF89a")
    for text in (html(frame), invited(EVIL), refused(EVIL), cannot(EVIL)):
        page = Page(text)
        assert "script" not in page.tags and EVIL in page.text
        assert all(value.startswith("data:image/") for _, name, value in page.attributes if name == "src")
    assert html(frame).count("<img") == 6 and 'style="width: 75%"' in html(frame)


@pytest.mark.parametrize(
    ("frame", "kinds"),
    [
        (Frame([row(1)]), ["one"]),
        (Frame([row(4)]), ["few"]),
        (Frame([row(5)]), ["many"]),
        (Frame([row(5)], strip=True), ["strip"]),
        (Frame([row(2, words=("given", "kept")), row(4)]), ["beside", "several"]),
    ],
)
def test_pictures_are_as_large_as_there_is_room(frame, kinds):
    found = [
        value for _, name, value in Page(html(frame)).attributes if name == "class" and value.startswith("pictures")
    ]
    assert found == [f"pictures {kind}" for kind in kinds]


def test_small_pictures_have_square_pixels_and_large_ones_on_their_way_are_compressed():
    small, large = html(Frame([row(1)], left=0.5)), html(Frame([row(1, 200)], left=0.5))
    assert 'class="square"' in small and "image/png" in small
    assert 'class="smooth"' in large and "image/webp" in large
    assert "image/png" in html(Frame([row(1, 200)])) and 'class="way done"' in html(Frame([row(1, 200)]))
