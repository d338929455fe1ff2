"""Free probabilities of codes and of 8-bit pixels: by hand, and summing to one."""

import torch

from ldm.prior.base import Latents
from ldm.prior.head.base import Bent
from ldm.prior.head.categorical import Categorical, levels_of, pixels_of
from ldm.random import Random

PIXELS = Latents((2, 256, 256), pixels=True)


def test_codes_have_the_softmax():
    head = Categorical(Latents((4, 1, 3), codes=5), embedding=2)
    parameters, z = torch.randn(2, 5, 1, 3), torch.tensor([[[0, 4, 2]], [[1, 1, 3]]])
    wanted = [[parameters[b, :, 0, i].softmax(0)[z[b, 0, i]].log() for i in range(3)] for b in range(2)]
    torch.testing.assert_close(head.log_prob(parameters, z)[:, 0], torch.tensor(wanted))
    assert torch.equal(head.embed(z)[1, :, 0, 2], head.embedding.weight[3])


def test_levels_are_those_of_8_bits():
    every = torch.arange(256)
    assert torch.equal(levels_of(pixels_of(every).view(1, 1, 16, 16)).flatten(), every)
    torch.testing.assert_close(pixels_of(torch.tensor([0, 255])), torch.tensor([-1.0, 1.0]))


def test_the_network_is_told_pixels_and_a_vector_of_each_level():
    """Of two channels, each with 256 vectors of its own; a level that is 1/255 away has another vector."""
    head = Categorical(Latents((2, 1, 2), pixels=True), embedding=3)
    vectors = head.embedding.weight
    z = pixels_of(torch.tensor([[[[253, 254]], [[0, 253]]]]))
    first, second = head.embed(z)[0, :, 0].T
    torch.testing.assert_close(first, torch.cat([z[0, :, 0, 0], vectors[253], vectors[256 + 0]]))
    torch.testing.assert_close(second, torch.cat([z[0, :, 0, 1], vectors[254], vectors[256 + 253]]))
    assert head.inputs == len(first) == 8


def head_of_pixels() -> tuple[Categorical, torch.Tensor]:
    head = Categorical(PIXELS)
    with torch.no_grad():
        head.tables[0].weight.normal_()
    return head, torch.randn(512)


def test_pixels_sum_to_one_and_the_second_channel_is_told_of_the_first():
    """All pairs of values, as positions of one map."""
    head, numbers = head_of_pixels()
    z = pixels_of(torch.stack(torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")))[None]
    p = head.log_prob(numbers.view(1, 512, 1, 1).expand(1, 512, 256, 256), z)[0].exp().detach()
    wanted = numbers[:256].softmax(0)[:, None] * (numbers[256:] + head.tables[0].weight.detach()).softmax(1)
    torch.testing.assert_close(p, wanted)
    torch.testing.assert_close(p.sum(), torch.tensor(1.0))


@torch.no_grad()
def test_draws_have_the_shares():
    n, (head, numbers) = 20_000, head_of_pixels()
    numbers[3], numbers[256:] = numbers[:256].logsumexp(0) + 1, 4 * torch.randn(256)  # most first channels are 3
    z = head.draw(numbers.expand(n, -1), None, Bent(), Random(0, 0, torch.arange(n)), "a")
    values = levels_of(z[:, :, None, None])[:, :, 0, 0]
    first = (numbers[:256].softmax(0)[3], values[:, 0] == 3)
    second = ((numbers[256:] + head.tables[0].weight[3]).softmax(0), values[values[:, 0] == 3, 1])
    assert abs(first[1].float().mean() - first[0]) < 0.015
    shares = torch.bincount(second[1], minlength=256) / len(second[1])
    assert (shares - second[0]).abs().max() < 0.02
