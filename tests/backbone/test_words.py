"""Every word of conf/backbone as a prior's network: it can be trained, saved, loaded and sampled from."""

import pytest
import torch

from ldm.model import LatentModel
from ldm.random import Random
from tests.runs import tiny, words_of


@pytest.mark.parametrize("word", words_of("backbone"))
def test_a_backbone_serves_a_prior(word, tmp_path):
    config = tiny(tmp_path, f"backbone={word}", "condition=label", "condition.classes=3")
    config["autoencoder"].pop("checkpoint")
    if "sides" in config["prior"]["backbone"]:
        config["prior"]["backbone"]["sides"] = [8, 8]  # of the latents that `tiny` has
    torch.manual_seed(0)
    model, rows = LatentModel.build(config), torch.arange(2)
    batch, z = {"label": rows, "index": rows}, torch.randn(2, 4, 8, 8)
    inner, given = model.prior.denoiser.backbone.inner, []
    inner.layer.register_forward_hook(lambda layer, inputs, output: given.append(output))
    optimizer = torch.optim.Adam(model.prior.parameters(), 1e-2)
    for _ in range(2):  # the first step wakes what starts at zero
        optimizer.zero_grad()
        model.prior.loss(z, model.condition(batch), Random(0, 0, rows))["diffusion"].backward()
        optimizer.step()
    # What an alignment reads: a map, tokens or one vector, of the width and the number that are said.
    tokens = given[-1].flatten(2).transpose(1, 2) if given[-1].ndim == 4 else given[-1].view(2, -1, inner.width)
    assert tokens.shape == (2, 8 // inner.stride[0] * (8 // inner.stride[1]), inner.width)
    model.save(tmp_path, config)
    loaded = LatentModel.load(tmp_path)
    one, other = (each.sample_latents(batch, Random(0, 0, rows)) for each in (model.eval(), loaded))
    assert one.shape == z.shape and one.isfinite().all() and torch.equal(one, other)
