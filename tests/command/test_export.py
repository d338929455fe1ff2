"""`ldm export` and `ldm import`: what is written, that a run comes of it, and what is refused before anything is written."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ldm.build import build
from ldm.command.export import export
from ldm.command.import_model import import_model
from ldm.command.sample import sample
from ldm.interop.diffusers_config import ForeignModelError
from ldm.model import LatentModel
from tests.interop.tiny import NONE, drawn, labelled, node
from tests.runs import compose

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


def asked(name: str, *words: str) -> dict:
    """The arguments of a verb as its words make them."""
    return compose(*words, missing="absent", name=name)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    labelled().save(folder / "model", node())
    return folder


@pytest.fixture(scope="module")
def pipeline(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "pipeline"
    export(**asked("export", f"run={run}", "to=diffusers", f"out={out}"))
    return out


def test_a_place_in_a_file_is_told_first(run, tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "x"
    with pytest.raises(ValueError, match=f"out={place}: a folder is wanted, and {tmp_path / 'file'} is a file"):
        export(**asked("export", f"run={run}", "to=torch", f"out={place}"))
    with pytest.raises(ValueError, match=f"run={place}: a folder is wanted"):
        import_model(**asked("import", f"source={run}", f"run={place}"))


def test_a_run_goes_out_and_comes_in(pipeline, tmp_path):
    run = tmp_path / "again"
    import_model(**asked("import", f"source={pipeline}", f"run={run}"))
    model = LatentModel.load(run)
    assert model.made_from["imported"] == str(pipeline) and not (run / "config.yaml").exists()
    torch.testing.assert_close(model.autoencoder.decode(z := torch.randn(2, 3, 8, 8)), labelled().autoencoder.decode(z))
    words = asked("sample", f"run={run}", "prompt=bag", "n=1", "steps=2", "device=cpu", f"out={tmp_path / 'images'}")
    sample(**words)
    assert (tmp_path / "images" / "0000.png").exists()


def test_training_goes_on_from_it(pipeline, tmp_path):
    """The words beside it describe its own network, schedule and condition, so that all of its weights are taken."""
    run = tmp_path / "again"
    import_model(**asked("import", f"source={pipeline}", f"run={run}"))
    words = yaml.safe_load((run / "words" / "experiment" / "imported.yaml").read_text())
    chosen = [
        (group.removeprefix("override /").partition("@")[0], word)
        for each in words["defaults"]
        for group, word in each.items()
    ]
    overrides = [f"{group}={word}" for group, word in chosen]
    config = compose(*overrides, "data=folder", "data.root=absent")
    for part in ("backbone", "condition"):
        config[part] |= words[part]
    config["prior"] |= {"backbone": config["backbone"], "schedule": words["diffusion"]["schedule"]}
    own = LatentModel.load(run)
    nodes = {"autoencoder": own.config["autoencoder"], "condition": config["condition"], "prior": config["prior"]}
    made = LatentModel.build(nodes)
    assert {n: v.shape for n, v in made.state_dict().items()} == {n: v.shape for n, v in own.state_dict().items()}
    made.load_state_dict(own.state_dict())
    z, t = torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.9])
    c = own.condition({"caption": ["bag", ""]})
    with torch.no_grad():
        torch.testing.assert_close(made.prior.denoiser(z, t, c), own.prior.denoiser(z, t, c))
    assert words["prior"]["checkpoint"] == words["autoencoder"]["checkpoint"] == str(run)


def test_with_data_it_can_be_measured(pipeline, tmp_path):
    words = [f"source={pipeline}", f"run={tmp_path / 'again'}", "data=shapes", "metric=none", "store=elsewhere"]
    import_model(**asked("import", *words))
    config = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert config["data"]["image_shape"] == [3, 16, 16] and config["store"] == "elsewhere" and config["second"]
    assert build(config["data"], "data").image_shape == (3, 16, 16)


def test_a_name_on_the_hub(pipeline, tmp_path, monkeypatch):
    """From the cache of a machine without a network, in the hub's own layout; what is not there is told in a line."""
    from huggingface_hub import constants

    commit, cache = "0" * 40, tmp_path / "cache" / "models--owner--name"
    shutil.copytree(pipeline, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    import_model(**asked("import", "source=owner/name", f"run={tmp_path / 'again'}"))
    model = LatentModel.load(tmp_path / "again")
    assert model.made_from["imported"] == "owner/name"
    torch.testing.assert_close(model.autoencoder.decode(z := torch.randn(2, 3, 8, 8)), labelled().autoencoder.decode(z))
    with pytest.raises(
        FileNotFoundError, match="source=owner/other: there is no such .* the hub does not give it"
    ) as told:
        import_model(**asked("import", "source=owner/other", f"run={tmp_path / 'new'}"))
    assert "\n" not in str(told.value) and not (tmp_path / "new").exists()


@pytest.mark.parametrize("halves", [False, True])
def test_what_is_fetched_of_a_name(halves, pipeline, tmp_path, monkeypatch):
    """The parts that are read, in full precision where there is some; no other variant, format or part."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    theirs = shutil.copytree(pipeline, tmp_path / "theirs")
    (theirs / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    network = theirs / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(network, network.with_name("diffusion_pytorch_model.fp16.safetensors"))
    if halves:
        network.unlink()
    strange = (
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
        "unet/a.non_ema.safetensors",
        "all.ckpt",
    )
    for name in strange:
        (theirs / name).parent.mkdir(exist_ok=True)
        (theirs / name).write_bytes(b"never")
    calls = []

    def download(name, allow_patterns, ignore_patterns):
        assert name == "owner/name"
        files = [file.relative_to(theirs).as_posix() for file in theirs.rglob("*") if file.is_file()]
        here = tmp_path / f"copy {len(calls)}"
        calls.append(list(filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)))
        for file in calls[-1]:
            (here / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(theirs / file, here / file)
        return str(here)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    import_model(**asked("import", "source=owner/name", f"run={tmp_path / 'again'}"))
    assert len(calls) == 1 + halves and not set(calls[-1]) & set(strange)
    assert ("unet/diffusion_pytorch_model.fp16.safetensors" in calls[-1]) == halves
    assert {
        "model_index.json",
        "tokenizer/tokenizer.json",
        "tokenizer/merges.txt",
        "text_encoder/model.safetensors",
    } <= set(calls[-1])
    assert LatentModel.load(tmp_path / "again").condition({"caption": ["bag"]}).tokens.shape == (1, 1, 18)


def test_nothing_is_written_over(run, pipeline, tmp_path):
    with pytest.raises(FileExistsError, match="is there already"):
        export(**asked("export", f"run={run}", "to=diffusers", f"out={pipeline}"))
    with pytest.raises(FileExistsError, match="is there already"):
        import_model(**asked("import", f"source={pipeline}", f"run={run}"))


def test_what_cannot_be_is_told_before_anything_is_written(pipeline, tmp_path):
    nodes = node(NONE, "Rectified", "Velocity")
    drawn(nodes).save(tmp_path / "run" / "model", nodes)
    with pytest.raises(ForeignModelError, match="parameterization Velocity"):
        export(**asked("export", f"run={tmp_path / 'run'}", "to=diffusers", f"out={tmp_path / 'out'}"))
    with pytest.raises(FileNotFoundError, match="no such directory or file; wanted"):
        import_model(**asked("import", "source=nowhere", f"run={tmp_path / 'new'}"))
    with pytest.raises(ValueError, match="heads= is of a file of CompVis's code"):
        import_model(**asked("import", f"source={pipeline}", f"run={tmp_path / 'new'}", "heads=2"))
    strange = shutil.copytree(pipeline, tmp_path / "strange")
    index = json.loads((strange / "model_index.json").read_text()) | {"controlnet": ["diffusers", "ControlNetModel"]}
    (strange / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ForeignModelError, match="controlnet"):  # by then the text encoder is there
        import_model(**asked("import", f"source={strange}", f"run={tmp_path / 'new'}"))
    assert not (tmp_path / "out").exists() and not (tmp_path / "new").exists()
