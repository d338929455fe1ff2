"""What the second stage computes, by hand from its definition: every step between an image and a weight."""

import math

import pytest
import torch

from ldm.alignment.alignment import Alignment
from ldm.random import Random, seed_of
from ldm.stage.rate import Constant
from ldm.stage.second import aligned
from ldm.types import Context
from tests.runs import rows
from tests.stage.tiny import DROP, At, alignment, data, fit, latents, second


def numbers(seed: int, step: int, batch: dict) -> Random:
    """The random numbers of an update: of the run's seed, the stage and the update, by row of the global batch."""
    return Random(seed_of(seed, "second"), step, batch["row"], batch["total"])


def whitened(model, batch, random) -> torch.Tensor:
    """(mean + std * noise - m) / s of the encoder's posterior."""
    encoder, (m, s) = model.autoencoder.encoder, ([0.3, -0.2], [0.7, 1.6])
    mean, log_variance = encoder(batch["image"]).chunk(2, dim=1)
    z = mean + (log_variance / 2).exp() * random.normal("posterior", (2, 4, 4))
    return (z - torch.tensor(m).view(2, 1, 1)) / torch.tensor(s).view(2, 1, 1)


def losses(model, batch, random, drop: float) -> torch.Tensor:
    """|F - (alpha eps - sigma z)|^2 at stratified times of the cosine schedule, (b,), conditions dropped where u < drop."""
    z, eps = whitened(model, batch, random), random.normal("noise", (2, 4, 4))
    t = (1e-3 + (1 - 1e-3) * random.stratified("time")).double()
    low, high = (2 / math.pi * math.atan(math.exp(-log_snr / 2)) for log_snr in (15, -15))
    angle = math.pi / 2 * (low + (high - low) * t)
    alpha, sigma = (part.float().view(-1, 1, 1, 1) for part in (angle.cos(), angle.sin()))
    label = torch.where(random.uniform("drop") < drop, 3, batch["label"])  # the last row is 'no condition'
    tokens = model.condition.tokens.weight[label][:, None]
    c = Context(tokens, torch.ones(len(z), 1, dtype=torch.bool))
    log_snr = (-2 * angle.tan().log()).float()
    found = model.prior.denoiser.backbone(alpha * z + sigma * eps, log_snr, c)
    return (found - (alpha * eps - sigma * z)).square().mean((1, 2, 3))


def first_batch(batch_size: int = 4) -> dict:
    return next(iter(data(batch_size).loader(0, 1)))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_update_by_hand(seed, tmp_path):
    """The loss that is logged, and the weights after a step of SGD: rate x warm-up x clipped gradient."""
    stage, model = second(seed, steps=2, log_every=1, validate_every=0, sgd=True, lr=0.5), second().model
    batch, after = first_batch(), []
    random = numbers(seed, 0, batch)
    dropped = random.uniform("drop") < DROP
    assert dropped.any() and not dropped.all(), "the example says something"
    loss = losses(model.train(), batch, random, DROP).mean()
    learnt = {n: p for n, p in model.named_parameters() if not n.startswith("autoencoder")}
    gradients = torch.autograd.grad(loss, list(learnt.values()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    fit(stage, tmp_path, At(1, lambda s: after.append({n: p.detach().clone() for n, p in s.model.named_parameters()})))
    row = rows(tmp_path)[0]
    assert (row["step"], row["images"]) == (1, 4)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5) and row["diffusion"] == row["loss"]
    assert row["prior gradient"] == pytest.approx(norm.item(), rel=1e-4) and row["rate"] == pytest.approx(0.25)
    for (name, p), g in zip(learnt.items(), gradients, strict=True):
        wanted = p - 0.5 * 0.5 * g * min(1.0, 1 / norm.item())
        torch.testing.assert_close(after[0][name], wanted, rtol=1e-4, atol=1e-6, msg=name)


@torch.no_grad()
def test_a_prior_drops_nothing_by_itself():
    """Whoever asks a prior for its loss is answered for the context given: every example's own, or the one that training sees."""
    model, batch = second().model, first_batch()
    random = numbers(0, 0, batch)
    z = whitened(model, batch, random)
    for c, drop in ((model.condition(batch), 0.0), (model.context(batch, random), DROP)):
        wanted = losses(model, batch, random, drop).mean()
        torch.testing.assert_close(model.prior.loss(z, c, random)["diffusion"], wanted, rtol=1e-4, atol=1e-5)


def test_micro_batches_are_parts_of_one_batch(tmp_path):
    """Times are stratified over the global batch, noise and drops are those of its rows, whatever part is at work."""
    fit(second(steps=1, log_every=1, validate_every=0, accumulate=2), tmp_path)
    batch = first_batch()
    random = numbers(0, 0, batch)
    model = second().model.train()
    wanted = losses(model, batch, random, DROP).mean()
    learnt = [p for name, p in model.named_parameters() if not name.startswith("autoencoder")]
    norm = torch.cat([g.flatten() for g in torch.autograd.grad(wanted, learnt)]).norm().item()
    [row] = rows(tmp_path)
    assert row["loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert row["prior gradient"] == pytest.approx(norm, rel=1e-4)
    times = random.stratified("time")
    assert sorted((4 * times).long().tolist()) == [0, 1, 2, 3], "one in each quarter"


def test_cached_latents_are_those_of_the_images():
    """Drawn from the stored mean and deviation, of the mirrored image where it is mirrored, and whitened when read."""
    stage, mirrored = second(), 0
    for image, latent in zip(data().loader(0, 6), latents().loader(0, 6), strict=True):
        assert "image" not in latent
        random = numbers(0, image["step"], image)
        wanted = whitened(stage.model, image, random)
        torch.testing.assert_close(stage.model.latent(latent, random), wanted, rtol=0, atol=5e-3)
        torch.testing.assert_close(stage.model.latent(image, random), wanted, rtol=1e-5, atol=1e-5)
        other = whitened(stage.model, image | {"image": image["image"].flip(-1)}, random)
        assert (other - wanted).abs().flatten(1).amax(1).min() > 0.1, "an encoder does not commute with mirroring"
        plain = data().items("train", image["index"].tolist())["image"]
        mirrored += int((plain != image["image"]).flatten(1).any(1).sum())
    assert 0 < mirrored < 24


def held_out(model, batches) -> dict[str, list[float]]:
    """Validation's loss of every example, in all and by quarter of the time: nothing dropped, one noise for ever."""
    found: dict[str, list[float]] = {}
    for batch in batches:
        random = Random(seed_of(0, "second"), -1, batch["index"], batch["total"])
        for loss, u in zip(losses(model, batch, random, 0.0).tolist(), random.stratified("time").tolist(), strict=True):
            for name in ("diffusion", f"loss_t{int(4 * (0.001 + 0.999 * u))}"):
                found.setdefault(name, []).append(loss)
    return found


def test_validation_by_hand(tmp_path):
    """With raw and with averaged weights, over the whole held-out set, the network's dropout switched off."""
    kept = []
    looks = [At(k, lambda s: kept.append([p.detach().clone() for p in s.players()[0].parameters])) for k in range(20)]
    stage = fit(second(steps=20, validate_every=20, lr=0.1, rate=Constant(), dropout=0.2), tmp_path, *looks)
    [row] = [row for row in rows(tmp_path) if "val diffusion" in row]
    raw = [p.detach().clone() for p in stage.players()[0].parameters]
    average = kept[0]
    for n, weights in enumerate([*kept[1:], raw]):
        d = min(0.999, 1 - 10 / 20, (1 + n) / (10 + n))
        average = [d * a + (1 - d) * w for a, w in zip(average, weights, strict=True)]
    for ending, weights in (("", raw), (" (average)", average)):
        model = second().model.eval()
        learnt = [p for name, p in model.named_parameters() if not name.startswith("autoencoder")]
        with torch.no_grad():
            for p, value in zip(learnt, weights, strict=True):
                p.copy_(value)
        found = held_out(model, data().val_loader())
        for name, values in found.items():
            assert row[f"val {name}{ending}"] == pytest.approx(sum(values) / len(values), rel=1e-4)
        assert len(found["diffusion"]) == 5
        absent = {f"loss_t{i}" for i in range(4)} - found.keys()
        assert all(row[f"val {name}{ending}"] == 0 for name in absent)
    assert row["val diffusion"] != pytest.approx(row["val diffusion (average)"], rel=1e-3), "averages differ"


@pytest.mark.parametrize("cached", [False, True])
def test_an_alignment_is_of_the_layer_and_the_examples_at_work(cached, tmp_path):
    """Of the first micro-batch: the inner layer's output of the very pass, against features of its (mirrored) images."""
    inners = []
    stage = second(aligned=0.5, cached=cached, steps=1, log_every=1, validate_every=0)
    layer = stage.model.prior.denoiser.backbone.inner.layer
    layer.register_forward_hook(lambda _, arguments, output: inners.append(output.detach()))
    own = Alignment(stage.alignment.network, 4, (4, 4), 0.5)
    own.load_state_dict(stage.alignment.state_dict())
    fit(stage, tmp_path)
    image, row = first_batch()["image"], rows(tmp_path)[0]
    wanted = own(inners[0], alignment(1.0).features(image)).item()
    assert row["alignment"] == pytest.approx(wanted, rel=1e-4)
    assert row["loss"] == pytest.approx(row["alignment"] + row["diffusion"], rel=1e-6)


def test_the_alignment_of_a_config_fits_its_backbone():
    """Width and grid of the tokens are the backbone's own."""
    model = second().model
    model.autoencoder.latent_shape = (2, 8, 4)
    network = {"_target_": "ldm.alignment.maps.RandomMaps", "width": 4, "layers": 1}
    node = {"_target_": "ldm.alignment.alignment.Alignment", "network": network}
    made = aligned(node, model, 0)
    assert made.grid == (8, 4) and made.projection[0].in_features == 4
    again, other = aligned(node, model, 0), aligned(node, model, 1)
    assert torch.equal(made.projection[0].weight, again.projection[0].weight), "of the run's seed"
    assert not torch.equal(made.projection[0].weight, other.projection[0].weight)
    assert aligned(None, model, 0) is None
