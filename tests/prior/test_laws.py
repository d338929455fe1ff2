"""What every prior of conf/prior promises to those who train, measure and sample it without knowing which one it is."""

import importlib
import inspect
import json
import pkgutil

import pytest
import torch

import ldm.prior
from ldm.model import MODEL_PACKAGES, LatentModel
from ldm.prior.base import Likelihood
from ldm.random import Random
from ldm.resolve import ConfigError
from tests.pieces import pieces
from tests.runs import tiny

CONDITIONS = {
    "none": ["condition=none", "diffusion.guidance.scale=1"],
    "label": ["condition=label", "condition.classes=3"],
    "masked": ["condition=masked", "diffusion.guidance.scale=1"],
    "low_resolution": ["condition=low_resolution", "diffusion.guidance.scale=1"],
}
SPATIAL = (
    "cnf",
    "consistency",
    "diffusion",
    "equilibrium",
    "mean_flow",
    "ot_flow",
)  # that take a map beside the latent
FIRST = {  # stages, and further words, that a prior is asked on, where that is not a KL autoencoder alone
    "categorical": ["vq_f4"],
    "pixelcnn": ["kl_f4_small", "vq_f4"],
    "maf": ["kl_f4_small", "kl_f4_small prior/transform=spline"],
    "tarflow": ["kl_f4_small", "kl_f4_small prior/transform=spline"],
    "transformer": ["vq_f4", "identity", "kl_f4_small prior/head=diffusion"],
    "variational_dequantisation": ["identity"],
}
SHAPE = {"identity": "[3,6,6]"}
FEW = {"_target_": "ldm.ode.RungeKutta", "steps": 2}  # in place of solvers to a tolerance
ROWS = 4


def made(word: str, first: str, condition: str, folder, shape: str | None = None) -> LatentModel:
    """An untrained model with this prior, none of its weights at a value that hides a mistake; `shape` of an image."""
    torch.manual_seed(0)
    first, *more = first.split()
    shape = shape or SHAPE.get(first, "[3,16,16]")
    words = [f"prior={word}", f"autoencoder={first}", f"data.image_shape={shape}"]
    if word == "cnf":  # whose every loss is a solution and asks its network many times
        side = json.loads(shape)[1] // 4
        words += ["backbone=mlp", f"backbone.sides=[{side},{side}]"]
    config = tiny(folder, *words, *more, *CONDITIONS[condition])
    if word in ("cnf", "ot_flow"):
        config["prior"] |= {"solver": FEW}
    diffusion = config["prior"] if word == "diffusion" else (config["prior"].get("head") or {}).get("law")
    if diffusion:
        flow = {
            "_target_": "ldm.diffusion.likelihood.Flow",
            "divergence": {"_target_": "ldm.diffusion.likelihood.Hutchinson"},
        }
        diffusion |= {"likelihood": {**flow, "solver": FEW}, "steps": 2}
    if word == "cnf":
        config["prior"]["objective"] |= {"solver": FEW}
    config["autoencoder"].pop("checkpoint", None)
    model = LatentModel.build({part: config[part] for part in ("autoencoder", "condition", "prior")})
    beside = model.prior.beside()
    with torch.no_grad():
        for p in (*model.parameters(), *(() if beside is None else beside.parameters())):
            p.add_(0.05 * torch.randn_like(p))
    return model.eval()


CASES = [(word, first) for word in pieces("prior") for first in FIRST.get(word, ["kl_f4_small"])]


TAKERS = {"masked": SPATIAL, "low_resolution": ("diffusion",)}  # who is asked under a condition; under others all are
ASKED = [(*case, condition) for case in CASES for condition in CONDITIONS if case[0] in TAKERS.get(condition, case[:1])]


@pytest.fixture(params=ASKED, ids="-".join)
def model(request, tmp_path) -> LatentModel:
    return made(*request.param, tmp_path)


def examples(model: LatentModel, rows: int = ROWS) -> tuple:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(rows, *model.autoencoder.image_shape, generator=generator) * 2 - 1
    batch = {"image": images, "label": torch.arange(rows) % 3, "index": torch.arange(rows)}
    random = Random(0, 0, torch.arange(rows))
    return batch, model.latent(batch, random), random


def test_losses_are_finite_and_move_every_weight_of_every_side(model):
    batch, z, random = examples(model, 32)
    model.train()
    beside = model.prior.beside()
    # Attention to one token, a label's, gives it all weight, whatever is asked.
    asking = ("cross_attention.to_q", "cross_norm")
    queries = {p for name, p in model.prior.named_parameters() if any(word in name for word in asking)}
    moved, shared = [], {}
    for side in model.prior.sides():
        own = [p for module in side.modules for p in module.parameters() if p.requires_grad]
        terms, values = side.loss(z, model.context(batch, random), random, 0, shared)
        assert all(value.isfinite() and value.ndim == 0 for value in (*terms.values(), *values.values()))
        if own:
            gradients = torch.autograd.grad(sum(terms.values()), own)
            assert all(gradient.isfinite().all() for gradient in gradients)
            still = {p for p, gradient in zip(own, gradients, strict=True) if gradient.abs().max() == 0}
            assert still <= queries
        moved += own
    assert len(set(moved)) == len(moved), "no weight is moved by two sides"
    trained = (*model.prior.parameters(), *(() if beside is None else beside.parameters()))
    assert set(moved) == {p for p in trained if p.requires_grad}


def test_samples_are_of_the_shape_and_each_of_its_own_number(model):
    batch, _, random = examples(model)
    z = model.sample_latents(batch, random)
    assert z.shape == model.prior.latents.batch(ROWS)
    part = {key: value[2:] for key, value in batch.items()}
    torch.testing.assert_close(
        model.sample_latents(part, Random(0, 0, torch.arange(2, 4))), z[2:], rtol=1e-4, atol=1e-5
    )
    again = model.sample_latents(batch, Random(1, 0, torch.arange(ROWS)))
    assert not torch.equal(again, z), "another seed draws others"
    images = model.decode(z)
    assert images.shape == (ROWS, *model.autoencoder.image_shape) and images.abs().max() <= 1


def test_held_out_values_are_of_each_example(model):
    batch, z, random = examples(model)
    with torch.no_grad():
        values = model.prior.held_out(z, model.condition(batch), random)
    assert values and all(value.shape == (ROWS,) for value in values.values())
    assert next(iter(values.values())).isfinite().all()


def test_what_it_costs_is_counted_wherever_there_is_a_network(model):
    """But for a head whose density is an estimate: an autoregressive network with it has no one forward pass to count."""
    found, head = model.prior.flops(), getattr(model.prior, "head", None)
    counted = model.prior.networks() and (head is None or head.kind == "exact")
    assert found > 0 if counted else found is None


def test_how_samples_are_drawn_is_plain_and_says_each_word(model):
    node = model.config["prior"]
    drawn = model.prior.drawn(node)
    assert json.loads(json.dumps(drawn)) == drawn and set(drawn) <= set(model.prior.DRAWING)
    assert set(model.prior.DRAWING) <= set(inspect.signature(type(model.prior)).parameters)
    assert set(model.prior.drawn()) == set(drawn), "known without a config, too"


def test_a_word_that_is_none_of_sampling_is_refused_by_name(model):
    with pytest.raises(ValueError, match=r"prior\.sharpness= says nothing of how samples are drawn"):
        model.prior.redrawn(model.config["prior"], {"sharpness": 3}, MODEL_PACKAGES)


def test_its_own_words_change_nothing(model):
    batch, _, random = examples(model)
    before, node = model.sample_latents(batch, random), model.config["prior"]
    own = {name: node[name] for name in model.prior.DRAWING if name in node}
    assert model.prior.redrawn(node, own, MODEL_PACKAGES) == node
    assert torch.equal(model.sample_latents(batch, random), before)


def test_it_comes_back_from_disk(model, tmp_path):
    batch, _, random = examples(model)
    model.save(tmp_path / "model", model.config)
    other = LatentModel.load(tmp_path / "model")
    assert torch.equal(other.sample_latents(batch, random), model.sample_latents(batch, random))


# Densities


def likelihoods() -> list[type[Likelihood]]:
    """Every class of ldm.prior that is a Likelihood."""
    for module in pkgutil.walk_packages(ldm.prior.__path__, "ldm.prior."):
        importlib.import_module(module.name)
    found, new = set(), {Likelihood}
    while new:
        new = {child for parent in new for child in parent.__subclasses__() if child.__module__.startswith("ldm.")}
        found |= new
    return sorted(found, key=lambda each: each.__qualname__)


def test_there_are_some():
    assert {each.__name__ for each in likelihoods()} >= {"Diffusion", "Normal", "Mixture", "Categorical"}


@pytest.mark.parametrize("kind", likelihoods(), ids=lambda kind: kind.__name__)
def test_densities_are_asked_for_as_the_interface_says(kind):
    def parameters(one):
        own = inspect.signature(inspect.unwrap(one.log_prob)).parameters.values()
        return [(each.name, each.kind, each.default) for each in own]

    assert parameters(kind) == parameters(Likelihood)
    assert kind.log_prob is not Likelihood.log_prob


@pytest.mark.usefixtures("unchecked")
def test_densities_are_of_each_example(model):
    if not isinstance(model.prior, Likelihood):
        pytest.skip(f"{type(model.prior).__name__} gives no densities")
    assert model.prior.kind in ("exact", "bound", "estimate")
    batch, z, random = examples(model)
    with torch.no_grad():
        c = model.condition(batch)
        whole = model.prior.log_prob(z, c, random)
        assert whole.shape == (ROWS,) and whole.isfinite().all()
        torch.testing.assert_close(model.prior.log_prob(z, c, random), whole)
        part = model.prior.log_prob(z[1:], c[1:] if model.condition.needs else c, random[1:])
    torch.testing.assert_close(part, whole[1:], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("word", "first"), [case for case in CASES if case[0] not in SPATIAL], ids="-".join)
def test_one_that_takes_no_map_says_so_and_who_does(word, first, tmp_path):
    with pytest.raises(
        ValueError, match=r"has no place for a condition on a part of each image .* take prior=diffusion"
    ):
        made(word, first, "masked", tmp_path)


def test_codes_need_a_quantiser(tmp_path):
    config = tiny(tmp_path, "prior=categorical", "condition=none")
    config["autoencoder"].pop("checkpoint", None)
    with pytest.raises(ConfigError, match=r"prior: Categorical models codes: .*try autoencoder=vq_f4"):
        LatentModel.build(config)
