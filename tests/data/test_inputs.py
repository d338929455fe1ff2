"""What a person hands over becomes images of the model's size, or is refused by its name before anything is done."""

import logging

import numpy as np
import PIL.Image
import pytest
import torch

from ldm.data.inputs import Inputs

SHAPE = (3, 4, 6)


def test_a_folder_in_its_natural_order(tmp_path):
    for name, value in (("b/10.png", 255), ("b/2.png", 0), ("a.png", 51)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.new("L", (6, 4), value).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    found = Inputs(tmp_path, SHAPE)
    assert found.names == ["a.png", "b/2.png", "b/10.png"]
    x = found.batch([0, 1, 2])
    assert x.shape == (3, *SHAPE)
    torch.testing.assert_close(x[:, 0, 0, 0], torch.tensor([-0.6, -1.0, 1.0]))
    assert Inputs(str(tmp_path / "a.png"), SHAPE).names == ["a.png"]


def test_the_centre_of_another_size_is_cut_out_and_told(caplog):
    """12 x 4 pixels, of which the middle 6 are white: the window of 6 : 4 is just those."""
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 3:9] = 255
    with caplog.at_level(logging.INFO):
        found = Inputs([PIL.Image.fromarray(wide), np.zeros((4, 6), np.uint8)], SHAPE)
    assert "1 of 2 images are of another size" in caplog.text and "6 x 4 pixels" in caplog.text
    torch.testing.assert_close(found.batch([0]), torch.ones(1, *SHAPE))


def test_what_is_of_the_size_is_taken_in_silence(caplog):
    with caplog.at_level(logging.INFO):
        x = Inputs(np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3), SHAPE).batch([1])
    assert not caplog.messages
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([72, 73, 74]) / 127.5 - 1)


@pytest.mark.parametrize("ndim", [3, 4])
def test_tensors_are_taken_as_they_are(ndim):
    x = torch.rand(2, *SHAPE) * 2 - 1
    found = Inputs(x if ndim == 4 else x[0], SHAPE)
    torch.testing.assert_close(found.batch(range(len(found))), x[: len(found)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (torch.rand(3, 4, 5), r"images: 0: a tensor of float32 \(3, 4, 5\); wanted .*\(3, 4, 6\) in \[-1, 1\]"),
        (torch.zeros(*SHAPE, dtype=torch.uint8), "a tensor of uint8"),
        (torch.full(SHAPE, 255.0), r"from 255 to 255; wanted \[-1, 1\]"),
        (torch.full(SHAPE, torch.nan), "a tensor from nan to nan"),
        (np.zeros((4, 6, 3)), "array of float64"),
        ([], "images: there is none in it"),
        ([3], "0: no image but int"),
    ],
)
def test_what_is_no_image_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        Inputs(given, SHAPE)


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"images=.*nothing: there is no such file or folder"):
        Inputs(tmp_path / "nothing", SHAPE)
    with pytest.raises(FileNotFoundError, match=r"task\.others=.*: there is no image below it \(endings \.jpg"):
        Inputs(tmp_path, SHAPE, "task.others")
    (tmp_path / "bad.png").write_text("text")
    with pytest.raises(ValueError, match=r"bad\.png.*: not an image of a known format"):
        Inputs(tmp_path, SHAPE)


def test_a_fingerprint_is_of_names_and_pixels(tmp_path):
    for name, value in (("a", 0), ("b", 0), ("c", 9)):
        (tmp_path / name).mkdir()
        PIL.Image.new("RGB", (6, 4), (value,) * 3).save(tmp_path / name / "1.png")
    one, same, other = (Inputs(tmp_path / name, SHAPE).fingerprint for name in "abc")
    assert one == same != other
    (tmp_path / "a" / "1.png").rename(tmp_path / "a" / "2.png")
    assert Inputs(tmp_path / "a", SHAPE).fingerprint != one


def test_many_images_are_read_again_when_their_turn_comes(tmp_path, monkeypatch):
    PIL.Image.new("RGB", (6, 4), (255, 0, 0)).save(tmp_path / "a.png")
    monkeypatch.setattr("ldm.data.inputs._KEPT", 10)
    x = Inputs(tmp_path, SHAPE).batch([0])
    torch.testing.assert_close(x[0, :, 2, 2], torch.tensor([1.0, -1.0, -1.0]))
