"""`ldm apply`: files of a task, going on after an interruption, refusals before anything is written."""

import hashlib
import json

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from pyarrow import parquet

from ldm.command import apply as applying
from ldm.command.apply import apply
from ldm.model import LatentModel
from ldm.task.base import Found
from tests.runs import compose, saved, tiny

ASKED = compose("run=absent", "task=embed", "batch=2", "device=cpu", name="apply")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return saved(folder, tiny(folder))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five images in two classes."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(5):
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        PIL.Image.fromarray(noise).save(folder / "ab"[i % 2] / f"{i}.png")
    return folder


def job(run, out, images, **words):
    apply(**ASKED | {"run": str(run), "images": str(images), "out": None if out is None else str(out)} | words)


def files(folder):
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in folder.iterdir() if each.is_file()}


def test_what_a_task_leaves(run, images, tmp_path):
    """Pictures, numbers and latents are the model's of each image, in the natural order of the paths."""
    job(run, tmp_path, images)
    model = LatentModel.load(run)
    names = ["a/0.png", "a/2.png", "a/4.png", "b/1.png", "b/3.png"]
    result = json.loads((tmp_path / "result.json").read_text())
    assert [row["name"] for row in result["rows"]] == names and result["images"]["n"] == 5
    table = parquet.read_table(tmp_path / "latents.parquet")
    assert table["name"].to_pylist() == names and table["class"].to_pylist() == ["a"] * 3 + ["b"] * 2
    assert json.loads(table.schema.metadata[b"shape"]) == {"z": list(model.autoencoder.latent_shape)}
    for row, name in enumerate(names):
        pixels = torch.from_numpy(np.array(PIL.Image.open(images / name))).permute(2, 0, 1)[None] / 127.5 - 1
        z = model.autoencoder.encode(pixels).mean
        torch.testing.assert_close(torch.tensor(table["z"][row].as_py()), z.flatten(), atol=1e-4, rtol=1e-4)
        decoded = model.decode(z)
        assert result["rows"][row]["error"] == pytest.approx(float((decoded - pixels).square().mean()), rel=1e-4)
        for kind, x in (("given", pixels), ("decoded", decoded)):
            shown = torch.from_numpy(np.array(PIL.Image.open(tmp_path / f"{row:04d}-{kind}.png"))).permute(2, 0, 1)
            assert ((x[0] + 1) * 127.5 - shown).abs().max() <= 1
    errors = [row["error"] for row in result["rows"]]
    assert result["means"]["error"]["mean"] == pytest.approx(sum(errors) / 5) and result["means"]["error"]["n"] == 5
    assert PIL.Image.open(tmp_path / "grid.png").width > PIL.Image.open(tmp_path / "grid.png").height


@pytest.mark.parametrize("kinds", [["given", "made"], ["0", "1", "2", "3", "4", "5"]])
def test_the_grid_has_a_column_for_a_row_or_a_line_for_a_strip(kinds):
    """Picture k of row i has the colour 40 i + k."""
    names = ["a", "b", "c"]
    shown = {i: {kind: torch.full((3, 8, 8), 40 * i + k).byte() for k, kind in enumerate(kinds)} for i in range(3)}
    grid = applying._grid(Found(names, 3, {}, {}, shown.__getitem__), kinds, range(3))
    pairs = (
        [(i, k) for k in range(2) for i in range(3)]
        if len(kinds) == 2
        else [(i, k) for i in range(3) for k in range(6)]
    )
    for cell, (i, k) in zip(grid.cells, pairs, strict=True):
        said = (kinds[k], names[i]) if len(kinds) == 2 else (names[i], kinds[k])
        assert (cell.row, cell.caption) == said
        left, top, right, bottom = cell.box
        assert grid.picture.getpixel(((left + right) // 2, (top + bottom) // 2)) == (40 * i + k,) * 3


@pytest.mark.parametrize("cut", [1, 2])
def test_an_interrupted_task_goes_on_to_the_same_files(run, images, tmp_path, monkeypatch, cut):
    job(run, tmp_path / "whole", images)
    write, done = applying.write_tensors, []

    def interrupted(path, tensors):
        if len(done) == cut:
            raise KeyboardInterrupt
        done.append(path)
        write(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(applying, "write_tensors", interrupted)
        with pytest.raises(KeyboardInterrupt):
            job(run, tmp_path / "cut", images)
    assert not (tmp_path / "cut" / "result.json").exists()
    kept = (tmp_path / "cut" / "0001-given.png").stat().st_mtime_ns
    job(run, tmp_path / "cut", images)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert (tmp_path / "cut" / "0001-given.png").stat().st_mtime_ns == kept, "what is there is left alone"


def test_a_lost_picture_is_made_again(run, images, tmp_path):
    job(run, tmp_path, images, batch=1)
    before = files(tmp_path)
    (tmp_path / "0003-decoded.png").unlink()
    job(run, tmp_path, images, batch=1)
    assert files(tmp_path) == before


def test_a_folder_holds_one_task(run, images, tmp_path):
    job(run, tmp_path, images)
    before = files(tmp_path)
    for other in ({"seed": 1}, {"weights": "raw"}, {"images": str(images / "a")}, {"prompt": "a star"}):
        with pytest.raises(ValueError, match="holds a task of other words, images or weights.*take another out="):
            job(run, tmp_path, **{"images": images} | other)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"batch": 0}, "batch=0"),
        ({"images": "/nowhere"}, "images=/nowhere: there is no such file or folder"),
        ({"label": 1}, "label= is given, but this model is conditioned on caption"),
        ({"prompt": "a", "label": 1}, "one kind of condition at a time; got prompt and label"),
        ({"prompts": "/nowhere"}, "prompts=/nowhere: no such file; wanted one with a caption a line"),
        ({"prompts": __file__}, r"\d+ captions for 5 images: give one for each, or one for all"),
        ({"task": {"_target_": "ldm.task.embed.Embed", "size": 3}}, "task.size: Embed has no such argument"),
        ({"run": "/nowhere"}, "nowhere"),
        ({"guidance": -1}, "scale.*got -1"),
    ],
)
def test_wrong_words_are_told_before_anything_is_written(run, images, tmp_path, words, said):
    with pytest.raises((ValueError, OSError), match=said):
        job(**{"run": run, "images": images, "out": tmp_path} | words)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_captions_has_one_for_each_image(run, images, tmp_path):
    """In the order of the images' names, a/0, a/2, a/4, b/1 and b/3: the file and each caption alone say the same."""
    captions = ["a star", "a circle", "a star", "a square", "a star"]
    file = tmp_path / "captions"
    file.write_text("\n".join(captions))
    edit = {"task": {"_target_": "ldm.task.edit.Edit", "strength": 1.0}, "guidance": 4, "steps": 2}
    job(run, tmp_path / "each", images, prompts=str(file), **edit)
    assert json.loads((tmp_path / "each" / "result.json").read_text())["captions"] == captions
    each = files(tmp_path / "each")
    for prompt in sorted(set(captions)):
        job(run, tmp_path / prompt, images, prompt=prompt, **edit)
        alone = files(tmp_path / prompt)
        same = [i for i in range(5) if alone[f"{i:04d}-edited.png"] == each[f"{i:04d}-edited.png"]]
        assert same == [i for i in range(5) if captions[i] == prompt]


def test_without_an_out_it_is_below_the_run(run, images):
    job(run, None, images)
    job(run, None, images, seed=1)
    assert sorted(each.name[:11] for each in (run / "tasks").iterdir()) == ["embed-seed0", "embed-seed1"]


def test_a_first_stage_alone_embeds(images, tmp_path):
    run = saved(tmp_path, tiny(tmp_path))
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"second": {}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    job(run, tmp_path / "out", images)
    assert (tmp_path / "out" / "latents.parquet").exists()
