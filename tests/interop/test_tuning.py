"""A pipeline of diffusers that has become a run: its loss is diffusers' own, training begins from its weights, and it can be
measured."""

import json

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from ldm.build import build
from ldm.command.evaluate import measure_again
from ldm.command.grammar import settable
from ldm.command.import_model import import_model
from ldm.experiment.experiment import Experiment
from ldm.interop.diffusers_pipeline import pipeline_of
from ldm.model import LatentModel
from ldm.run import record
from ldm.run.signals import FINISHED
from ldm.stage.stage import Stage
from ldm.tensors import read_tensors
from tests.interop.tiny import drawn, node, write_clip
from tests.pieces import CONF
from tests.runs import compose

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

DATA = ["data=shapes", "data.train.count=8", "data.val.count=6"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Of captions by a CLIP, with Stable Diffusion's levels of noise."""
    folder = tmp_path_factory.mktemp("theirs")
    source = write_clip(folder / "clip")
    condition = {"_target_": "ldm.condition.padded.PaddedText", "source": str(source), "length": 8}
    pipeline_of(drawn(node(condition, "ScaledLinear"))).write(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def run(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    words = [f"source={pipeline}", f"run={folder / 'run'}", *DATA, "metric=offline", f"store={folder / 'store'}"]
    import_model(**compose(*words, name="import"))
    return folder / "run"


@torch.no_grad()
def test_the_loss_is_that_of_diffusers(pipeline, run):
    """At given noise and steps: |U-Net(alpha z + sigma eps, k, tokens) - eps|^2, with their scheduler's alpha and sigma."""
    theirs = diffusers.DiffusionPipeline.from_pretrained(pipeline)
    model = LatentModel.load(run)
    z, eps, k = torch.randn(3, 3, 8, 8), torch.randn(3, 3, 8, 8), torch.tensor([0, 120, 250])
    captions = ["a b", "c a c", ""]
    tokens = theirs.encode_prompt(captions, "cpu", 1, False)[0]
    noisy = theirs.scheduler.add_noise(z, eps, k)
    wanted = (theirs.unet(noisy, k, tokens).sample - eps).square().flatten(1).mean(1)
    own = model.prior.denoiser
    errors = own.errors(z, eps, (k + 1) / own.schedule.steps, model.condition({"caption": captions}))
    assert wanted.min() > 0.3 and wanted.std() > 1e-3
    torch.testing.assert_close(errors.prediction, wanted, atol=1e-5, rtol=1e-5)


def tuned(run, folder, *words: str) -> dict:
    """The config of `train.py --config-dir RUN/words experiment=imported`, for two updates."""
    told = [
        *(f"hydra.searchpath=[file://{run / 'words'}]", "experiment=imported", *DATA, "data.batch_size=4"),
        *(
            "trainer=cpu",
            "logger=none",
            "metric=offline",
            f"runs={folder / 'runs'}",
            f"store={folder / 'store'}",
            "name=run",
        ),
        *("second.steps=2", "second.log_every=1", "second.validate_every=0", "second.picture_every=0"),
        *("evaluation.samples=4", "evaluation.batch=4", "diffusion.steps=2", *words),
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(hydra_compose("config", [settable(word) for word in told]), resolve=True)
    config["data"]["workers"] = 0
    return config


def test_training_begins_from_its_weights(run, tmp_path, monkeypatch):
    begun, start = {}, Stage.on_fit_start

    def on_fit_start(stage):
        start(stage)
        begun.update({name: value.detach().clone() for name, value in stage.trained().state_dict().items()})

    monkeypatch.setattr(Stage, "on_fit_start", on_fit_start)
    config = tuned(run, tmp_path)
    assert config["diffusion"]["guidance"]["scale"] == 7.5 and config["diffusion"]["sampler"]["_target_"].endswith(
        "DDIM"
    )
    assert Experiment(config).run() == FINISHED
    theirs = read_tensors(run / "model" / "model.safetensors")
    wanted = {name: value for name, value in theirs.items() if name.startswith("prior.")}
    assert len(wanted) > 60 and all(torch.equal(begun[name], value) for name, value in wanted.items())
    made = LatentModel.load(tmp_path / "runs" / "run", "raw")
    apart = [name for name, value in wanted.items() if not torch.equal(made.state_dict()[name], value)]
    assert len(apart) > 0.9 * len(wanted), "and two updates move them"
    own = made.autoencoder.state_dict()
    assert all(torch.equal(value, theirs[f"autoencoder.{name}"]) for name, value in own.items()), (
        "the first stage is not"
    )
    assert made.prior.denoiser.schedule.steps == 300 and made.prior.drawn()["sampler"] == "ddim"


@torch.no_grad()
def test_it_is_measured(run):
    """PSNR of its reconstructions as worked out here, 10 log10(4 / mse), averaged over images."""
    measure_again(**compose(f"run={run}", "samples=6", "steps=2", "device=cpu", name="evaluate"))
    found = {each.metric: each for each in record.read(run / "records.jsonl")}
    config = json.loads(json.dumps(compose(*DATA)["data"])) | {"image_shape": [3, 16, 16]}
    images = build(config, "data").items("val", list(range(6)))["image"]
    mse = (LatentModel.load(run).reconstruct(images) - images).square().flatten(1).mean(1)
    psnr = (10 * torch.log10(4 / mse)).mean().item()
    assert abs(found["psnr"].value - psnr) < 1e-3 * abs(psnr)
    assert found["psnr"].n == 6 and any(name.startswith("fd_") for name in found)
