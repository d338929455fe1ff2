import json
import re
import unicodedata

import numpy
import PIL.Image
import pytest
import torch
from fontTools.ttLib import TTFont

from ldm.callback.image_grid import _ABSENT, _LINES, _drawable, _font, _legible, _wrapped, beside, image_grid, save
from ldm.eight_bits import eight_bits


def random_images(n=5, channels=3, height=32, width=32):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(n)) * 2.4 - 1.2


def pixels_of(grid, cell):
    image = grid.picture.crop(cell.box)
    small = image.resize((image.width // grid.scale, image.height // grid.scale), PIL.Image.Resampling.NEAREST)
    assert small.resize(image.size, PIL.Image.Resampling.NEAREST).tobytes() == image.tobytes()
    return torch.from_numpy(numpy.array(small)).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(32, 32), (64, 48), (200, 256)])
def test_every_pixel_is_shown(channels, size):
    images = random_images(5, channels, *size)
    grid = image_grid(images, [f"caption {i}" for i in range(5)], columns=3)
    assert grid.columns == 3 and grid.scale == max(1, -(-128 // size[1]))
    for cell, image in zip(grid.cells, eight_bits(images), strict=True):
        assert torch.equal(pixels_of(grid, cell), image)


def test_cells_and_captions_keep_apart():
    long = "a man riding a wave on top of a surfboard while a dog looks on from the beach in bright sun " * 3
    grid = image_grid(random_images(9), ["", long, "x" * 200, "naïve “café” – 中文 \n two"] * 2 + [""], columns=4)
    paper = numpy.array(grid.picture)
    for cell in grid.cells:  # captions are drawn on paper, never over an image, which the pixels of the last test show
        left, top, right, bottom = cell.box
        assert 0 < left < right < grid.picture.width and 0 < top < bottom < grid.picture.height
        assert not (paper[top:bottom, left - 3] != 255).any() and not (paper[top:bottom, right + 3] != 255).any()
    boxes = [cell.box for cell in grid.cells]
    assert len({box[1] for box in boxes}) == 3 and len({box[0] for box in boxes}) == 4
    for cell, image in zip(grid.cells, eight_bits(random_images(9)), strict=True):
        assert torch.equal(pixels_of(grid, cell), image)


def test_wrapping_keeps_words_and_width():
    text = "a small red circle at the top left on a white background"
    for width in (90, 128, 400):
        lines = _wrapped(text, width, lines=20)
        assert " ".join(lines) == text and all(_font().getlength(line) <= width for line in lines)
    assert "".join(_wrapped("x" * 90, 128, lines=20)) == "x" * 90
    cut = _wrapped(text * 9, 128)
    assert len(cut) == _LINES and cut[-1].endswith("…") and _font().getlength(cut[-1]) <= 128
    assert _wrapped("", 128) == _wrapped(" \n ", 128) == []


def test_a_text_of_one_line_too_many_is_cut():
    words = ["wwwwwwww"] * 4  # of 88 pixels about, so that a line holds one
    assert _wrapped(" ".join(words[:3]), 120, lines=3) == words[:3]
    assert _wrapped(" ".join(words), 120, lines=3) == [*words[:2], "wwwwwwww…"]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "Grüße aus München, süß & groß",
            "Un cœur brisé, où ça? Noël à l’œil",
            "Zażółć gęślą jaźń; İstanbul; Ðøå ñ ¿",
        ),
        *(
            "Ένα μικρό κόκκινο κύκλος",
            "Маленький красный круг, ёж",
            "“naïve” – café — … €5 ½ ™",
            "Hawaiʻi: 5 × 3 → ≤ 20°",
        ),
    ],
)
def test_letters_are_drawn_as_they_are(text):
    assert _legible(text) == text == _legible(unicodedata.normalize("NFD", text))
    assert " ".join(_wrapped(text, 128, lines=20)) == text
    grids = [image_grid(random_images(1), [words]).picture for words in (text, re.sub(r"[^\x00-\x7f]", "?", text))]
    assert grids[0].tobytes() != grids[1].tobytes()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        *[
            ("一个 red 圈", "□□ red □"),
            ("a dog 🐶", "a dog □"),
            ("👨\u200d👩\u200d👧 ❤\ufe0f", "□□□ ❤"),
            ("ไทย", "□□□"),
        ],
        *[("nul\0", "nul□"), ("half \ud800", "half □"), ("\ufeffa\u200b b\u202e\n c", "a b c"), ("what?", "what?")],
    ],
)
def test_what_the_font_lacks_is_a_square(text, shown):
    assert _legible(text) == shown and _drawable(_ABSENT)


def test_the_font_is_known_character_by_character():
    """By its pixels as by its table of characters."""
    table = TTFont(_font().path).getBestCmap()
    for code in [
        *range(0x21, 0x7F),
        *range(0xA1, 0x530),
        *range(0x2010, 0x2200),
        *range(0x4E00, 0x4E20),
        *range(0x1F600, 0x1F700),
    ]:
        if unicodedata.category(chr(code)) != "Cf" and not chr(code).isspace():
            assert _drawable(chr(code)) is (code in table), hex(code)


def test_rows_stand_beside_each_other():
    x, y = random_images(10), -random_images(10)
    grid = beside([("original", x), ("reconstruction", y)], columns=4)
    assert [cell.row for cell in grid.cells] == ["original"] * 10 + ["reconstruction"] * 10
    for above, below in zip(grid.cells[:10], grid.cells[10:], strict=True):
        assert above.box[0] == below.box[0] and 0 < below.box[1] - above.box[3] < 10
    assert torch.equal(pixels_of(grid, grid.cells[13]), eight_bits(y)[3])
    assert (numpy.array(grid.picture)[:, : grid.cells[0].box[0] - 2] != 255).any()  # the titles


@pytest.mark.parametrize("rows", [[], [("a", random_images(0))], [("a", random_images(2)), ("b", random_images(3))]])
def test_rows_that_do_not_match_are_refused(rows):
    with pytest.raises(ValueError, match="wanted rows of equally many images"):
        beside(rows)


def test_captions_must_be_one_an_image():
    with pytest.raises(ValueError, match="3 images came with 2 captions"):
        image_grid(random_images(3), ["a", "b"])


def test_a_saved_grid_says_what_is_where(tmp_path):
    grid = image_grid(random_images(3), ["a", "bé", "c"])
    save(grid, tmp_path / "new" / "s.png", kind="samples", stage="second", step=7, images=448, title="guidance 3")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["s.json", "s.png"]
    assert PIL.Image.open(tmp_path / "new/s.png").tobytes() == grid.picture.tobytes()
    facts = json.loads((tmp_path / "new/s.json").read_text(encoding="utf-8"))
    assert (facts["step"], facts["images"], facts["kind"], facts["columns"]) == (7, 448, "samples", grid.columns)
    assert [cell["caption"] for cell in facts["cells"]] == ["a", "bé", "c"]
    assert tuple(facts["cells"][1]["box"]) == grid.cells[1].box
