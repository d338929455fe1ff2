"""What the first stage computes, by hand: the evidence bound of a drawn latent, and its validation."""

import math

import pytest
import torch

from ldm.random import Random, seed_of
from ldm.stage.rate import Constant
from tests.runs import rows
from tests.stage.tiny import At, autoencoder, data, first, fit


def fresh() -> torch.nn.Module:
    torch.manual_seed(0)
    return autoencoder()


def posterior(own, x) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the log-variance that the encoder gives: raw, since training does not know of whitening."""
    return own.encoder(x).chunk(2, dim=1)


def test_the_first_update_by_hand(tmp_path):
    own, after = fresh(), []
    batch = next(iter(data().loader(0, 1)))
    x, random = batch["image"], Random(seed_of(0, "first"), 0, batch["row"], 4)
    mean, log_variance = posterior(own, x)
    y = own.decoder(mean + (log_variance / 2).exp() * random.normal("posterior", (2, 4, 4)))
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1).mean()
    v = torch.zeros((), requires_grad=True)  # the learnt log-variance, in tenths
    nats = 0.5 * ((x - y).square() * torch.exp(-10 * v) + 10 * v + math.log(2 * math.pi)).flatten(1).sum(1).mean()
    loss = (nats + 1e-6 * kl) / 192
    gradients = torch.autograd.grad(loss, [*own.parameters(), v])
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    stage = first(steps=2, log_every=1, validate_every=0, sgd=True, lr=0.5)
    fit(stage, tmp_path, At(1, lambda s: after.append([p.detach().clone() for p in s.players()[0].parameters])))
    row = rows(tmp_path)[0]
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert row["kl (unweighted)"] == pytest.approx(kl.item(), rel=1e-4)
    assert row["mse"] == pytest.approx((x - y).square().mean().item(), rel=1e-4)
    assert row["autoencoder gradient"] == pytest.approx(norm, rel=1e-4)
    for p, g, found in zip([*own.parameters(), v], gradients, after[0], strict=True):
        torch.testing.assert_close(found, p - 0.25 * g * min(1, 1 / norm), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("averaged", [False, True])
def test_validation_by_hand(averaged, tmp_path):
    """The mean's reconstruction, clamped as it is shown: its squared error, its PSNR over a range of 2, the posterior's KL."""
    stage = first(steps=20, validate_every=20, lr=0.1, rate=Constant())
    stage.autoencoder.decoder.head.bias.data[0] = 20  # beyond what can be shown
    fit(stage, tmp_path)
    [row] = [row for row in rows(tmp_path) if "val psnr" in row]
    own, found = fresh(), {"mse": [], "psnr": [], "kl (unweighted)": []}
    weights = stage.average.named() if averaged else dict(stage.autoencoder.named_parameters())
    own.load_state_dict(own.state_dict() | {name: value.detach() for name, value in weights.items()})
    with torch.no_grad():
        for batch in data().val_loader():
            mean, log_variance = posterior(own, batch["image"])
            assert own.decoder(mean).abs().max() > 1
            error = (own.decoder(mean).clamp(-1, 1) - batch["image"]).square().flatten(1).mean(1)
            found["mse"] += error.tolist()
            found["psnr"] += (10 * torch.log10(2**2 / error)).tolist()
            found["kl (unweighted)"] += (
                0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1)
            ).tolist()
    for name, values in found.items():
        assert len(values) == 5
        wanted = sum(values) / 5
        assert row[f"val {name}{' (average)' if averaged else ''}"] == pytest.approx(wanted, rel=1e-4)
    assert row["val mse"] != pytest.approx(row["val mse (average)"], rel=1e-3), "averages differ"


def test_the_critic_judges_what_was_drawn(tmp_path):
    """Its hinge loss, by hand, of the batch and of the reconstruction of the same pass; the generator's term, too."""
    stage = first(critic_start=0, heard=1, steps=2, log_every=1, validate_every=0)
    critic, seen = stage.loss.adversarial.critic, []
    critic.register_forward_hook(lambda _, images, logits: seen.append((images[0].detach(), logits.detach())))
    fit(stage, tmp_path)
    one, two = rows(tmp_path)
    x = next(iter(data().loader(0, 1)))["image"]
    images, logits = seen[0]
    assert torch.equal(images[:4], x) and (images[4:] - x).square().mean().item() == pytest.approx(one["mse"], rel=1e-4)
    real, fake = logits.chunk(2)
    hinge = 0.5 * ((1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()).item()
    assert one["critic loss"] == pytest.approx(hinge, rel=1e-5) and "adversarial" not in one
    assert two["adversarial"] == pytest.approx(-seen[1][1].mean().item() * two["adversarial weight"], rel=1e-4)
    assert two["loss"] == pytest.approx(two["reconstruction"] + two["kl"] + two["adversarial"], rel=1e-5)
