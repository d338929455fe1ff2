"""Faults of ldm/autoencoder."""

from tests.mutants.fault import of

FAULTS = [
    *of(
        "ldm/autoencoder/autoencoder.py",
        "tests/autoencoder/test_autoencoder.py",
        ("(raw.mean - mean) / std", "raw.mean / std"),
        ("raw.std / std", "raw.std"),
        ("self.decode_raw(z * std + mean)", "self.decode_raw((z + mean) * std)"),
        ("self.latent_std.copy_(std)", "self.latent_std.copy_(std.square())"),
        ("for side in (height, width) if", "for side in (height,) if"),
        ("if not (std > 0).all():", "if not (std >= 0).all():"),
        ("self.decoder(self.bottleneck.restore(z))", "self.decoder(z)"),
        ("self.decoder(coded.z), coded.z", "self.decoder(coded.posterior.mean), coded.z"),
    ),
    *of(
        "ldm/autoencoder/bottleneck.py",
        "tests/autoencoder/test_bottleneck.py",
        ("return self.mean + self.std * noise", "return self.mean"),
        ("- 1 - 2 * self.std.log()", "- 1 - self.std.log()"),
        ("0.5 * terms.flatten(1).sum(1)", "0.5 * terms.flatten(1).mean(1)"),
        ("torch.exp(0.5 * log_variance", "torch.exp(log_variance"),
        (".clamp(-30, 20)", ".clamp(-3, 20)"),
        ("posterior.kl().mean()", "posterior.kl().sum()"),
        ("posterior.sample(noise), posterior,", "posterior.mean, posterior,"),
    ),
    *of(
        "ldm/autoencoder/quantiser.py",
        "tests/autoencoder/test_quantiser.py",
        ("_per_image(h - nearest.detach())", "_per_image(h - nearest)"),
        ("_per_image(h.detach() - nearest)", "_per_image(h - nearest)"),
        ("h + (nearest - h).detach()", "nearest"),
        ("2 * (rows @ book.T)", "rows @ book.T"),
        ("torch.where(dead, 1.0, usage)", "torch.where(dead, 0.0, usage)"),
        ("entropy = -torch", "entropy = torch"),
        ("if self.training:", "if True:"),
        ("counts[:, 0] / even - self.usage", "counts[:, 0] - self.usage"),
        ("difference.square().sum() / len(difference)", "difference.square().mean()"),
        ("self.commitment * _per_image", "_per_image"),
    ),
    *of(
        "ldm/autoencoder/convnet.py",
        ("tests/autoencoder/test_convnet.py", "tests/interop/test_diffusers.py"),
        ("self.mix(self.head(F.silu(self.norm(self.trunk(x)))))", "self.mix(self.head(self.norm(self.trunk(x))))"),
        ("partial(Downsample, pad_all_sides=False)", "partial(Downsample, pad_all_sides=True)"),
        ("partial(Group, eps=1e-6)", "partial(Group, eps=1e-3)"),
        ("F.silu(self.norm(self.trunk(self.stem(self.mix(z)))))", "F.silu(self.norm(self.trunk(self.stem(z))))"),
        ("return F.pixel_shuffle(x, self.patch) if", "return F.pixel_shuffle(x.flip(1), self.patch) if"),
        ("self.checkpointing and self.training else", "self.checkpointing else"),
    ),
]
