"""Holes, and the membrane that fills them and takes their seams out."""

import numpy as np
import PIL.Image
import pytest
import torch

from ldm.random import Random
from ldm.task.tools.hole import Drawn, hole_of
from ldm.task.tools.membrane import membrane, seamless


def rows(n=3, first=0):
    return Random(0, 0, torch.arange(first, first + n))


def test_words():
    half, box = (hole_of(word)((4, 8), rows(1))[0, 0] for word in ("half", "box"))
    assert half.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 4
    assert box.tolist() == [[0] * 8, *[[0, 0, 1, 1, 1, 1, 0, 0]] * 2, [0] * 8]
    scattered = hole_of("random")((32, 32), rows())
    assert (scattered.mean((1, 2, 3)) - 0.5).abs().max() < 0.08 and scattered.unique().tolist() == [0, 1]
    assert torch.equal(scattered[2:], hole_of("random")((32, 32), rows(1, 2))) and scattered[0].ne(scattered[1]).any()


def draw(pixels, file):
    PIL.Image.fromarray(np.array(pixels, np.uint8)).save(file)
    return str(file)


def test_a_file_is_white_where_it_is_filled_in(tmp_path):
    file = draw([[0, 255, 120], [0, 140, 0]], tmp_path / "m.png")
    assert hole_of(file)((2, 3), rows())[:, 0].tolist() == [[[0, 1, 0], [0, 1, 0]]] * 3


def test_one_that_is_given_is_taken():
    given = Drawn(torch.eye(2), "a tensor")
    assert hole_of(given) is given and given((2, 2), rows(1))[0, 0].tolist() == [[1, 0], [0, 1]]


def test_what_is_no_mask_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"task.mask=hlaf is no file; a mask is half, box, random, or an image"):
        hole_of("hlaf")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text.png is no image that can be read; a mask is half"):
        hole_of(str(tmp_path / "text.png"))
    for pixels, said in (
        ([[0, 0]], "black: there is nothing to fill in"),
        ([[255, 255]], "white: there is nothing to go by"),
    ):
        with pytest.raises(ValueError, match=f"is all {said}"):
            hole_of(draw(pixels, tmp_path / "m.png"))((1, 2), rows())
    with pytest.raises(ValueError, match="m.png is 2 x 1 pixels, and this model's images are 4 x 3: draw it"):
        hole_of(draw([[0, 255]], tmp_path / "m.png"))((3, 4), rows())


def test_a_membrane_goes_straight_between_two_sides():
    """Between columns of 0 and of 1, three columns apart, whatever stood in the hole."""
    x, hole = torch.full((2, 3, 4, 4), 7.0), torch.zeros(2, 1, 4, 4)
    x[..., 0], x[..., 3], hole[..., 1:3] = 0, 1, 1
    wanted = torch.tensor([0, 1 / 3, 2 / 3, 1]).expand_as(x)
    assert torch.allclose(membrane(x, hole), wanted, atol=1e-5)
    hole[1] = 0
    assert torch.allclose(membrane(x, hole)[0], wanted[0], atol=1e-5) and torch.equal(membrane(x, hole)[1], x[1])


def test_a_membrane_is_the_mean_of_its_neighbours():
    hole = hole_of("random")((8, 8), rows(1))
    x = membrane(torch.randn(1, 1, 8, 8, dtype=torch.float64), hole.double())
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    mean = sum(padded[..., i : i + 8, j : j + 8] for i, j in ((0, 1), (2, 1), (1, 0), (1, 2))) / 4
    assert torch.allclose(x[hole > 0], mean[hole > 0], atol=1e-6)


def test_a_seam_is_taken_out_and_what_is_given_stays():
    """What was made is too bright by a half everywhere: the given image comes back."""
    x, hole = torch.linspace(-0.4, 0.4, 8).expand(1, 1, 8, 8), hole_of("box")((8, 8), rows(1))
    found = seamless(x, x + 0.5, hole)
    assert torch.allclose(found, x, atol=1e-5) and torch.equal(found[hole == 0], x[hole == 0])
