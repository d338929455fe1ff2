"""Faults of ldm/loss."""

from tests.mutants.fault import of

_MAPS = ("tests/loss/test_perceptual.py", "tests/loss/test_alignment.py")

FAULTS = [
    *of(
        "ldm/loss/adversarial.py",
        ("tests/loss/test_adversarial.py", "tests/stage/test_first.py"),
        ("hinge = 0.5 * (", "hinge = 1.0 * ("),
        ("F.relu(1 - real)", "F.relu(-real)"),
        ("F.relu(1 + fake)", "F.relu(1 - fake)"),
        ("term = -functional_call(", "term = functional_call("),
        ("wanted / (heard + 1e-4)", "heard / (wanted + 1e-4)"),
        (".clamp(0, CLAMP)", ".clamp(0)"),
        ("self.weight * adaptive_weight(", "adaptive_weight("),
        ("name: p.detach() for name, p", "name: p for name, p"),
        ("torch.cat([x, y.detach()]).detach()", "torch.cat([x, y])"),
        ("if critic_start >= start:", "if critic_start > start:"),
    ),
    *of(
        "ldm/loss/first_stage.py",
        ("tests/loss/test_first_stage.py", "tests/stage/test_first.py"),
        ('self.kl_weight if name == "kl" else 1.0', "1.0"),
        ("self.perceptual_weight * numbers * distance", "self.perceptual_weight * distance"),
        ("extra).mean() / numbers", "extra).mean()"),
        ("update >= self.adversarial.start", "update > self.adversarial.start"),
        ("update < self.adversarial.critic_start", "update <= self.adversarial.critic_start"),
        ("weight * verdict", "verdict"),
        ('"logits real": values["real"]', '"logits real": values["fake"]'),
        ("(x - y.detach()).square().mean()", "(x - y.detach()).abs().mean()"),
    ),
    *of(
        "ldm/loss/reconstruction.py",
        "tests/loss/test_reconstruction.py",
        ("v + math.log(2 * math.pi)", "v + math.log(math.pi)"),
        ("error * torch.exp(-0.5 * v)", "error * torch.exp(-v)"),
        ("(1 - self.square) * difference.abs()", "self.square * difference.abs()"),
        ("return self.speed * self.scaled_log_variance", "return self.scaled_log_variance"),
        ("error if extra is None else error + extra", "error"),
        ("requires_grad=learnt", "requires_grad=True"),
    ),
    *of(
        "ldm/loss/perceptual.py",
        "tests/loss/test_perceptual.py",
        ("rest = smooth[..., ::2, ::2]", "rest = smooth[..., 1::2, 1::2]"),
        ("return total + self._size(rest, len(x))", "return total"),
        ('mode="replicate"', 'mode="constant"'),
        ("self._size(rest - smooth, len(x))", "self._size(smooth, len(x))"),
    ),
    *of(
        "ldm/loss/features.py",
        "tests/loss/test_perceptual.py",
        (".square().sum(1).mean((1, 2))", ".square().mean(1).mean((1, 2))"),
        ("x.square().sum(1, keepdim=True)", "x.square().mean(1, keepdim=True)"),
    ),
    *of(
        "ldm/loss/maps.py",
        _MAPS,
        ("((x + 1) / 2 - mean) / std", "(x - mean) / std"),
        ("[seen.flip(2, 3) for seen in", "[seen for seen in"),
        ("x[:, :3] * alpha + 1 - alpha", "x[:, :3] * alpha"),
        ("module.inplace = False", "module.inplace = True"),
        ("hash_of(self.network.state_dict())", "hash_of({})"),
        ("last_hidden_state[:, -height * width :]", "last_hidden_state[:, : height * width]"),
    ),
    *of(
        "ldm/loss/alignment.py",
        "tests/loss/test_alignment.py",
        ("return self.weight * (1 - cosine).mean()", "return (1 - cosine).mean()"),
        ("(1 - cosine).mean()", "(1 - cosine).sum()"),
        ("x.flatten(2).transpose(1, 2) if", "x.transpose(2, 3).flatten(2).transpose(1, 2) if"),
        ('f"{self.network.key} {self.grid}"', 'f"{self.network.key}"'),
    ),
]
