"""Temperature, guidance, top-k and top-p by hand, and draws by their shares."""

import pytest
import torch

from ldm.prior.base import Latents
from ldm.prior.head.base import Bent, bent_logits, chosen
from ldm.prior.head.categorical import Categorical
from ldm.prior.head.gaussian_mixture import GaussianMixture
from ldm.prior.head.logistic_mixture import LogisticMixture

P = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
NULL = torch.tensor([[0.25, 0.25, 0.4, 0.1]])


def bent(null=None, **how) -> torch.Tensor:
    """The law that is drawn from; logits are known up to a number."""
    other = None if null is None else null.log() - 2
    return bent_logits(P.log() + 3, other, Bent(**how)).softmax(-1)[0]


def normed(*weights: float) -> torch.Tensor:
    return torch.tensor(weights) / sum(weights)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({}, normed(0.1, 0.4, 0.2, 0.3)),
        ({"temperature": 0.5}, normed(0.01, 0.16, 0.04, 0.09)),
        ({"top_k": 2}, normed(0, 0.4, 0, 0.3)),
        ({"top_k": 9}, normed(0.1, 0.4, 0.2, 0.3)),
        ({"top_p": 0.65}, normed(0, 0.4, 0, 0.3)),
        ({"top_p": 0.75}, normed(0, 0.4, 0.2, 0.3)),
        ({"top_p": 0.0}, normed(0, 1, 0, 0)),
        ({"temperature": 0.5, "top_p": 0.8}, normed(0, 0.16, 0, 0.09)),  # of .01 .16 .04 .09 over .3
    ],
)
def test_a_law_is_bent_by_hand(how, wanted):
    torch.testing.assert_close(bent(**how), wanted)


def test_guidance_is_the_power_of_a_ratio():
    """p_c (p_c / p_0)^(s - 1) with s = 3, normalised, then the temperature."""
    each = P[0] * (P[0] / NULL[0]) ** 2
    torch.testing.assert_close(bent(NULL, guidance=3.0), each / each.sum())
    torch.testing.assert_close(bent(NULL, guidance=3.0, temperature=2.0), each.sqrt() / each.sqrt().sum())
    torch.testing.assert_close(bent(NULL, guidance=1.0), P[0])


def test_the_value_whose_interval_holds_u():
    logits, u = P.log().expand(6, -1), torch.tensor([0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.9999])
    assert chosen(logits, u).tolist() == [0, 0, 1, 1, 2, 3]
    cut = bent_logits(P.log(), None, Bent(top_k=2)).expand(2, -1)
    assert chosen(cut, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("head", "reads"),
    [
        (Categorical, {"codes": "codes", "pixels": "pixels", "latents": "codes"}),
        (LogisticMixture, {"codes": "pixels", "pixels": "pixels", "latents": "pixels"}),
        (GaussianMixture, {"codes": "latents", "pixels": "latents", "latents": "latents"}),
    ],
)
def test_what_a_head_models_of_a_first_stage(head, reads):
    assert {gives: head.reading(gives) for gives in reads} == reads
    latents = {
        "latents": Latents((1, 2, 2)),
        "codes": Latents((1, 2, 2), codes=3),
        "pixels": Latents((1, 2, 2), pixels=True),
    }
    for kind, each in latents.items():
        assert each.kind == kind
        if kind in head.reads:
            assert head(each).outputs > 0
        else:
            with pytest.raises(ValueError, match=f"is a law of .* and the first stage gives {kind}"):
                head(each)
