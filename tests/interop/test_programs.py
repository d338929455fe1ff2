"""Programs of a model: by onnxruntime and by torch.export they give our numbers, for any batch, and what `export.json` says is
enough to sample."""

import functools
import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from ldm.build import Config
from ldm.command.export import export
from ldm.command.sample import sample
from ldm.interop.program_file import Onnx, Torch
from ldm.interop.programs import Program, programs_of
from ldm.model import LatentModel
from ldm.prior.diffusion import Diffusion
from ldm.random import Random
from ldm.types import Context
from tests.interop.tiny import LABEL, NONE, drawn, node, scatter
from tests.runs import compose
from tests.test_pages import ROOT, blocks

DIT = {"_target_": "ldm.backbone.dit.DiT", "_partial_": True, "width": 16, "depth": 1, "heads": 2}
SHAPE = (3, 8, 8)
TEXT = {"_target_": "ldm.condition.text.Text", "width": 16, "depth": 1, "heads": 2, "vocabulary": 300, "length": 12}


def small(condition: Config = LABEL, schedule: str = "Cosine", parameterization: str = "Noise") -> Config:
    """A first stage of a level and a transformer of a block: little to trace."""
    nodes = node(condition, schedule, parameterization)
    nodes["autoencoder"]["image_shape"] = [3, *SHAPE[1:]]
    for part in ("encoder", "decoder"):
        nodes["autoencoder"][part] |= {"multipliers": [1], "blocks": 1, "middle_attention": False}
    nodes["prior"]["backbone"] = DIT
    nodes["prior"]["guidance"]["scale"] = 2.0
    return nodes


@functools.cache
def of_labels() -> LatentModel:
    torch.manual_seed(0)
    return drawn(small())


def asked(*words: str, name: str = "export") -> dict:
    return compose(*words, missing="absent", name=name)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    of_labels().save(folder / "model", small())
    return folder


@pytest.fixture(scope="module")
def programs(run, tmp_path_factory) -> Path:
    pytest.importorskip("onnxscript")
    out = tmp_path_factory.mktemp("out") / "programs"
    export(**asked(f"run={run}", "to=onnx", f"out={out}"))
    return out


def ran(folder: Path, name: str, *given: torch.Tensor) -> torch.Tensor:
    """What onnxruntime gives of a program, by the names that export.json says."""
    onnxruntime = pytest.importorskip("onnxruntime")
    said = json.loads((folder / "export.json").read_text())["programs"][name]
    session = onnxruntime.InferenceSession(folder / said["file"], providers=["CPUExecutionProvider"])
    found = session.run(list(said["outputs"]), dict(zip(said["inputs"], [each.numpy() for each in given], strict=True)))
    return torch.from_numpy(found[0])


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 5])
def test_onnx_gives_our_numbers(batch, programs):
    model, z, t = of_labels(), torch.randn(batch, *SHAPE), torch.linspace(0.05, 1, batch)
    label = torch.arange(batch) % 3 - 1
    c = model.condition({"label": label})
    torch.testing.assert_close(ran(programs, "condition", label), c.tokens, atol=1e-6, rtol=0)
    torch.testing.assert_close(ran(programs, "decoder", z), model.autoencoder.decode(z), atol=1e-4, rtol=1e-4)
    # Two tokens, of which the second counts in some rows alone.
    tokens, mask = c.tokens.repeat(1, 2, 1) * torch.tensor([1.0, -3.0])[:, None], torch.ones(batch, 2, dtype=torch.bool)
    mask[0, 1] = False
    wanted = model.prior.denoiser(z, t, Context(tokens, mask))
    got = ran(programs, "denoiser", z, t, tokens, mask)
    alpha, sigma = (each[:, None, None, None] for each in model.prior.denoiser.schedule.alpha_sigma(t))
    # As noise, whose error is the network's at all times; at t = 1 the one of x is 1800 times as large.
    torch.testing.assert_close((z - alpha * got) / sigma, (z - alpha * wanted) / sigma, atol=1e-4, rtol=1e-4)
    other = ran(programs, "denoiser", z, t, tokens, torch.ones_like(mask))
    assert (other - got)[0].abs().max() > 1e-3 and torch.allclose(other[1:], got[1:], atol=1e-6), "the mask matters"


def test_export_json_says_what_goes_in(programs, run):
    facts = json.loads((programs / "export.json").read_text())
    assert facts["latent_shape"] == facts["image_shape"] == list(SHAPE) and facts["classes"] == LABEL["names"]
    assert facts["trained_on"] == {"schedule": "cosine", "prediction": "noise"}
    denoiser = facts["programs"]["denoiser"]
    shapes = {name: port["shape"] for name, port in denoiser["inputs"].items()}
    assert shapes == {
        "x_t": ["batch", *SHAPE],
        "t": ["batch"],
        "tokens": ["batch", "count", 16],
        "mask": ["batch", "count"],
    }
    assert denoiser["inputs"]["mask"]["type"] == "bool" and denoiser["outputs"]["x"]["shape"] == ["batch", *SHAPE]
    rows = facts["schedule"]
    assert rows["times"][250] == 0.25 and len(rows["alpha"]) == len(rows["sigma"]) == 1001
    # Cosine between +-15: half of the time is half of the angle, where both are equal.
    assert abs(rows["alpha"][500] - 0.5**0.5) < 1e-12 and abs(rows["sigma"][500] - 0.5**0.5) < 1e-12
    assert rows["alpha"][0] == 1 and rows["sigma"][0] == 0
    assert facts["sampling"]["guidance"] == 2 and facts["drawn"]["sampler"] == "ddim"
    assert facts["sampling"]["times"] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert facts["run"] == str(run) and facts["weights"] == "averaged"


def test_the_program_of_the_page_draws_what_ldm_does(programs, run, tmp_path, monkeypatch):
    """Executed as it stands, with noise of this model's shape; its `draw` gives the images of sample.py from the same noise."""
    pytest.importorskip("onnxruntime")
    program = next(each for each in blocks((ROOT / "docs/interop.md").read_text(), "python") if "onnxruntime" in each)
    assert "(4, 4, 8, 8)" in program
    monkeypatch.chdir(programs.parent)
    names: dict = {}
    exec(compile(program.replace("(4, 4, 8, 8)", "(4, 3, 8, 8)"), "docs/interop.md", "exec"), names)
    assert Image.open("clothes.png").size == (32, 8)

    words = [f"run={run}", "label=bag", "n=3", "seed=7", "device=cpu", f"out={tmp_path / 'images'}"]
    sample(**asked(*words, name="sample"))
    noise = Random(7, 0, torch.arange(3)).normal("prior", SHAPE)
    images = names["draw"](programs, noise.numpy(), numpy.zeros(3, int)).clip(-1, 1)
    for row, image in enumerate(images):
        drawn_by_us = numpy.array(Image.open(tmp_path / "images" / f"{row:04d}.png")).transpose(2, 0, 1)
        assert drawn_by_us.std() > 20 and abs((image + 1) * 127.5 - drawn_by_us).max() < 0.51
    wanted = of_labels().sample({"label": torch.zeros(3, dtype=torch.long)}, Random(7, 0, torch.arange(3)))
    torch.testing.assert_close(torch.from_numpy(images), wanted, atol=1e-4, rtol=0)


@torch.no_grad()
def test_programs_of_torch(run, tmp_path):
    export(**asked(f"run={run}", "to=torch", f"out={tmp_path / 'programs'}"))
    decoder, denoiser, condition = (
        torch.export.load(tmp_path / "programs" / f"{name}.pt2").module()
        for name in ("decoder", "denoiser", "condition")
    )
    own = of_labels()
    for batch in (1, 5):
        z, t, label = torch.randn(batch, *SHAPE), torch.rand(batch), torch.arange(batch) % 3 - 1
        c = own.condition({"label": label})
        torch.testing.assert_close(condition(label), c.tokens)
        torch.testing.assert_close(decoder(z), own.autoencoder.decode(z), atol=1e-5, rtol=1e-5)
        wanted = own.prior.denoiser(z, t, c)
        torch.testing.assert_close(denoiser(z, t, c.tokens, c.mask), wanted, atol=1e-5, rtol=1e-4)


def of_prior(prior: Config, condition: Config = LABEL) -> LatentModel:
    model = LatentModel.build(small(condition) | {"prior": prior}).eval()
    scatter(model)
    return model


def made(program: Program) -> torch.nn.Module:
    return program.exported().module()


@torch.no_grad()
@pytest.mark.parametrize("word", ["glow", "gan", "consistency"])
def test_what_draws_in_one_pass_is_a_generator(word):
    """From the numbers that the prior draws, it makes the latents that the prior makes."""
    torch.manual_seed(0)
    prior = compose(f"prior={word}", "backbone=dit_small", "data=shapes")["prior"]
    for key, value in {"width": 8, "depth": 1, "levels": 1, "steps": 1}.items():
        if key in prior:
            prior[key] = value
    model = of_prior(prior)
    programs = programs_of(model)
    assert [each.name for each in programs.programs] == ["decoder", "generator", "condition"] and not programs.left_out
    generator, random = programs.programs[1], Random(3, 0, torch.arange(3))
    c = model.condition({"label": torch.tensor([0, 1, 0])})
    noise = random.normal("noise" if word == "gan" else "prior", generator.inputs[0].shape[1:])
    wanted = model.prior.sample((3, *SHAPE), c, random)
    assert wanted.std() > 0.05
    torch.testing.assert_close(made(generator)(noise, c.tokens, c.mask), wanted, atol=1e-5, rtol=1e-4)


def test_of_a_first_stage_alone_the_decoder_goes_out(tmp_path):
    nodes = small()
    of_labels().save(tmp_path / "run" / "model", nodes)
    (tmp_path / "run" / "config.yaml").write_text("second: null")
    export(**asked(f"run={tmp_path / 'run'}", "to=torch", f"out={tmp_path / 'out'}"))
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["decoder.pt2", "export.json"]
    assert facts["left_out"] == {"prior": "it was not trained, the run is a first stage alone"}
    assert "sampling" not in facts


def test_what_draws_otherwise_goes_out_without():
    programs = programs_of(of_prior({"_target_": "ldm.prior.normal.Normal"}, NONE))
    assert [each.name for each in programs.programs] == ["decoder"]
    assert programs.left_out == {"prior": "samples of Normal are not drawn by one pass of one network"}


@torch.no_grad()
def test_captions(tmp_path):
    """Tokens of captions by the tokenizer that is written beside; what is padding, and what is no condition."""
    from tokenizers import Tokenizer

    torch.manual_seed(1)
    model = LatentModel.build(small(TEXT)).eval()
    model.condition.fit(["a small red circle", "a large blue star"])
    scatter(model)
    programs = programs_of(model)
    programs.write(tmp_path / "programs", Torch(), {})
    assert (
        programs.programs[2]
        .inputs[0]
        .says.startswith("1, then the numbers of tokenizer.json each raised by 2, then 0 as")
    )
    tokenizer = Tokenizer.from_file(str(tmp_path / "programs" / "tokenizer.json"))
    captions = ["a large star", "", "a red circle"]
    rows = [[1, *(number + 2 for number in tokenizer.encode(caption).ids)] for caption in captions]
    ids = torch.tensor([row + [0] * (12 - len(row)) for row in rows])
    c = model.condition({"caption": captions})
    tokens = torch.export.load(tmp_path / "programs" / "condition.pt2").module()(ids)
    assert torch.equal(ids != 0, c.mask)
    torch.testing.assert_close(tokens[c.mask], c.tokens[c.mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(tokens[1, 0], model.condition.empty[0, 0])


def test_a_velocity_and_its_schedule():
    """Straight paths are traced for any batch; where torch cannot, a line says so."""
    own = drawn(small(NONE, "Rectified", "Velocity"))
    denoiser, z, t = programs_of(own).programs[1], torch.randn(3, *SHAPE), torch.tensor([0.1, 0.5, 1.0])
    with torch.no_grad():
        torch.testing.assert_close(made(denoiser)(z, t), own.prior.denoiser(z, t, Context()), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="velocity prediction on the schedule Cosine .* it can on rectified"):
        programs_of(LatentModel.build(small(NONE, "Cosine", "Velocity")))


def test_an_extra_that_is_not_there_is_told_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"to=onnx needs onnx and onnxscript: pip install 'ldm\[onnx\]'"):
        export(**asked(f"run={tmp_path / 'nowhere'}", "to=onnx", f"out={tmp_path / 'out'}"))
    assert Onnx().suffix == "onnx" and not (tmp_path / "out").exists()


def test_a_map_does_not_go_out():
    condition = {"_target_": "ldm.condition.masked.Masked", "of": {"_target_": "ldm.condition.none.Unconditional"}}
    model = LatentModel.build(small(condition))
    assert isinstance(model.prior, Diffusion)
    with pytest.raises(ValueError, match="condition Masked is a map made of parts of images"):
        programs_of(model)
