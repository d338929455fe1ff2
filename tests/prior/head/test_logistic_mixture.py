"""Discretised mixtures of logistics: by their definition, summing to one over 256 values; draws by their law."""

import torch

from ldm.prior.base import Latents
from ldm.prior.head.base import Bent
from ldm.prior.head.categorical import levels_of, pixels_of
from ldm.prior.head.logistic_mixture import LogisticMixture
from ldm.random import Random

HEAD = LogisticMixture(Latents((2, 256, 256), pixels=True), components=2)
EVERY = pixels_of(torch.stack(torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")))[None]
NUMBERS = torch.tensor([0.3, -0.5, -0.4, 0.2, 0.6, 1.0, -0.5, -1.0, 0.4, 0.0, 2.0, -0.3])


def table(numbers: torch.Tensor = NUMBERS) -> torch.Tensor:
    """The probability of each pair of values, (256, 256)."""
    return HEAD.log_prob(numbers.view(1, -1, 1, 1).expand(1, -1, 256, 256), EVERY)[0].exp()


def test_it_is_its_definition():
    """w, means, log-scales, and the coefficient of the second channel stand in this order; log-scales begin at -2."""
    w = NUMBERS[:2].double().softmax(0)
    means, scales = NUMBERS[2:6].double().view(2, 2), (NUMBERS[6:10].double().view(2, 2) - 2).exp()
    a, x = NUMBERS[10:].double().tanh(), EVERY[0].double()

    def mass(x, mean, scale):
        above, below = (torch.sigmoid((x + d / 255 - mean) / scale) for d in (1, -1))
        return torch.where(x > 0.999, 1.0, above) - torch.where(x < -0.999, 0.0, below)

    wanted = sum(
        w[k] * mass(x[0], means[k, 0], scales[k, 0]) * mass(x[1], means[k, 1] + a[k] * x[0], scales[k, 1])
        for k in range(2)
    )
    found = table()
    torch.testing.assert_close(found, wanted.float(), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(found.sum(), torch.tensor(1.0), rtol=0, atol=1e-4)


def test_draws_have_the_moments_of_the_table():
    n, p = 5_000, table()
    z = HEAD.draw(NUMBERS.expand(n, -1), None, Bent(), Random(0, 0, torch.arange(n)), "a")
    assert torch.equal(pixels_of(levels_of(z[:, :, None, None]))[..., 0, 0], z)
    x = EVERY[0]
    for value, drawn in ((x[0], z[:, 0]), (x[1], z[:, 1]), (x[0] * x[1], z[:, 0] * z[:, 1]), (x[1] ** 2, z[:, 1] ** 2)):
        mean = (p * value).sum()
        error = ((p * (value - mean) ** 2).sum() / n).sqrt()
        assert abs(drawn.mean() - mean) < 4 * error


def test_guidance_is_of_each_channel_given_those_before_it():
    """Away from the law itself it changes nothing; the first channel's is p_c^2 / p_0, by the table."""
    n, random = 3_000, Random(0, 0, torch.arange(3_000))
    plain = HEAD.draw(NUMBERS.expand(n, -1), None, Bent(), random, "a")
    same = HEAD.draw(NUMBERS.expand(n, -1), NUMBERS.expand(n, -1), Bent(guidance=5.0), random, "a")
    assert (same == plain).float().mean() > 0.99, "up to rounding"
    null = NUMBERS + torch.tensor([0, 0, 0.2, 0, 0.2, 0, 0, 0, 0, 0, 0, 0])
    z = HEAD.draw(NUMBERS.expand(n, -1), null.expand(n, -1), Bent(guidance=2.0), random, "a")
    law = table().sum(1) ** 2 / table(null).sum(1)
    law = law / law.sum()
    mean = (law * EVERY[0, 0, :, 0]).sum()
    error = ((law * (EVERY[0, 0, :, 0] - mean) ** 2).sum() / n).sqrt()
    assert abs(z[:, 0].mean() - mean) < 4 * error and abs(plain[:, 0].mean() - mean) > 6 * error
