"""The discretised logistic law: summing to one over 256 values wherever it lies, finite in the tails."""

import torch

from ldm.nn.logistic import log_mass


def test_one_channel_sums_to_one_however_it_lies():
    every = (torch.arange(256) / 127.5 - 1).expand(6, -1)
    means, log_scales = (
        torch.tensor([[0.0], [1.0], [-1.3], [0.5], [5.0], [0.1]]),
        torch.tensor([[-7.0], [-3], [0], [2], [-1], [-2]]),
    )
    total = log_mass(every, means, log_scales).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(6), rtol=0, atol=1e-4)


def test_far_tails_are_finite_and_right():
    """Far below the mean F is all but exp((x - m) / s), so the mass is exp((x - m) / s) 2 sinh(h / s)."""
    mean, log_scale = torch.tensor(0.9, requires_grad=True), torch.tensor(-5.0)
    found = log_mass(torch.tensor(-0.5), mean, log_scale)
    found.backward()
    s = torch.tensor(-5.0).exp()
    torch.testing.assert_close(found.detach(), (-0.5 - 0.9) / s + (2 * torch.sinh(1 / 255 / s)).log())
    torch.testing.assert_close(mean.grad, -1 / s)
