"""Pictures from a visitor are cut and resized as data are, and what is painted lies where it was painted."""

import base64
import io

import numpy as np
import PIL.Image
import pytest

from ldm.demo.picture import address, enlarged, film, fitted, hole, inline


def layer(size, box=None):
    found = PIL.Image.new("RGBA", size, (0, 0, 0, 0))
    if box is not None:
        found.paste((224, 69, 123, 255), box)
    return found


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((32, 32), ""),
        ((64, 64), "The picture is 64 × 64 pixels: it was made 32 × 32."),
        ((96, 64), "The picture is 96 × 64 pixels: its middle 64 × 64 was taken and made 32 × 32."),
        ((16, 40), "The picture is 16 × 40 pixels: its middle 16 × 16 was taken and made 32 × 32."),
    ],
)
def test_a_picture_is_fitted_and_it_is_said(size, said):
    own, told = fitted(PIL.Image.new("RGB", size, "red"), (3, 32, 32))
    assert (own.size, own.mode, told) == ((32, 32), "RGB", said)


def test_it_has_the_models_colours():
    assert fitted(PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 0)), (1, 8, 8))[0].getpixel((0, 0)) == 255  # on white
    assert fitted(PIL.Image.new("RGB", (8, 8), "red"), (1, 8, 8))[0].mode == "L"


def test_a_hole_lies_where_it_was_painted():
    """On a picture of 96 x 64, whose middle 64 x 64 is made 32 x 32: columns 16 to 80 are kept, two pixels make one."""
    found = np.array(hole([layer((96, 64), (26, 10, 36, 30))], (3, 32, 32))) > 0
    wanted = np.zeros((32, 32), bool)
    wanted[5:15, 5:10] = True
    assert np.array_equal(found, wanted)
    other = np.array(hole([layer((64, 64), (0, 0, 32, 32)), layer((64, 64), (32, 32, 64, 64))], (3, 32, 32))) > 0
    assert other[:16, :16].all() and other[16:, 16:].all() and not other[:15, 17:].any()


def test_a_thin_line_is_a_hole_too():
    """A line of 4 of 320 pixels covers two fifths of the pixels of a model that it passes."""
    found = np.array(hole([layer((320, 320), (102, 0, 106, 320))], (1, 32, 32))) > 0
    assert found[:, 10].all() and found.sum() <= 64


def test_what_is_no_hole_is_told():
    for layers in ([], [layer((64, 64))], [PIL.Image.new("RGB", (4, 4))]):
        with pytest.raises(ValueError, match="Nothing is painted yet: paint over what is to be filled in."):
            hole(layers, (3, 32, 32))
    with pytest.raises(ValueError, match="All of the picture is painted over"):
        hole([layer((64, 64), (0, 0, 64, 64))], (3, 32, 32))


def test_an_address_holds_the_picture():
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    kind, _, data = address(picture).partition(";base64,")
    again = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/png" and np.array_equal(np.array(again), np.array(picture))
    assert address(picture, exact=False).startswith("data:image/webp;base64,")
    assert inline(b"GIF89a", "gif") == "data:image/gif;base64,R0lGODlh"


def test_a_film_goes_there_and_back():
    """Frames 0 1 2 as 0 1 2 1, each pixel a square."""
    frames = [PIL.Image.new("RGB", (4, 4), (80 * i, 0, 0)) for i in range(3)]
    moving = PIL.Image.open(io.BytesIO(film(frames)))
    assert moving.n_frames == 4 and moving.size == (256, 256) and moving.info["loop"] == 0
    seen = []
    for i in range(4):
        moving.seek(i)
        seen.append(moving.convert("RGB").getpixel((5, 5))[0])
    assert seen == [0, 80, 160, 80]
    assert enlarged(PIL.Image.new("RGB", (30, 20)), 64).size == (90, 60)
