"""Faults of ldm/bijection, and of the flows that are made of it."""

from tests.mutants.fault import of

_LAWS = "tests/bijection/test_laws.py"
_FLOWS = "tests/prior/test_normalizing_flow.py"

FAULTS = [
    *of(
        "ldm/bijection/actnorm.py",
        _LAWS,
        ("x.shape[2] * x.shape[3] * self.log_scale.sum()", "self.log_scale.sum()"),
        ("y * (-self.log_scale).exp() - self.bias", "(y - self.bias) * (-self.log_scale).exp()"),
        ("self.bias.copy_(-mean[0])", "self.bias.copy_(mean[0])"),
        ("deviation[0].clamp(min=_LEAST).log()", "deviation[0].log()"),
    ),
    *of(
        "ldm/bijection/chain.py",
        _LAWS,
        ("in reversed(self.parts)", "in self.parts"),
        ("x = part.begin(x, c)", "part.begin(x, c)"),
    ),
    *of(
        "ldm/bijection/conv1x1.py",
        _LAWS,
        ("x.shape[2] * x.shape[3] * self.log_diagonal.sum()", "x.shape[2] * self.log_diagonal.sum()"),
        ("self.permutation.T @ y.flatten(2)", "self.permutation @ y.flatten(2)"),
        ("self.lower.tril(-1) + torch", "self.lower + torch"),
        ("torch.linalg.qr(torch.randn(channels, channels)).Q", "torch.randn(channels, channels)"),
        ("with uncast(x):", "with torch.no_grad():"),
    ),
    *of(
        "ldm/bijection/made.py",
        "tests/bijection/test_autoregressive.py",
        ("gain * self.kept.sum(1, keepdim=True).clamp(min=1).rsqrt()", "gain * kept.shape[1] ** -0.5"),
        ("known, number = memory.given - 1,", "known, number = 0,"),
        ("torch.addmm(memory.sums[k], x, ", "torch.addmm(0 * memory.sums[k], x, "),
        ("(layer.weight * layer.kept)[:, list", "layer.weight[:, list"),
    ),
    *of(
        "ldm/bijection/transform/sigmoidal.py",
        "tests/bijection/test_autoregressive.py",
        (".abs() / self.least", ".abs() * self.least"),
    ),
    *of("ldm/bijection/squeeze.py", _LAWS, ("b c (h p) (w q) -> b (p q c) h w", "b c (h p) (w q) -> b (c p q) h w")),
    *of(
        "ldm/bijection/multiscale.py",
        _LAWS,
        ("y, log_det = torch.cat([goes_on, leaves], 1), log_det + more", "y = torch.cat([goes_on, leaves], 1)"),
        ("y = torch.cat([self.below.begin(goes_on, c), leaves], 1)", "pass"),
        ("sensible += min(height, width) > 2", "sensible += 1"),
        ("int(channels == 1 and possible > 0)", "0"),
        ("if wanted > possible:", "if False:"),
    ),
    *of(
        "ldm/bijection/mask.py",
        _LAWS,
        ("return (second, first) if self.flip else (first, second)", "return first, second"),
        ("(row[:, None] + column) % 2 == 1", "(row[:, None] + 0 * column) % 2 == 1"),
        ("torch.cat([x * kept,", "torch.cat([x,"),
        ("if channels < 2:", "if False:"),
    ),
    *of(
        "ldm/bijection/transform/affine.py",
        _LAWS,
        ("self.bound * torch.tanh(raw / self.bound), shift", "raw, shift"),
        ("return (y - shift) * (-log_scale).exp(), -log_scale", "return (y - shift) * (-log_scale).exp(), log_scale"),
    ),
    *of(
        "ldm/bijection/coupling.py",
        _LAWS,
        ("self.mask.put(torch.zeros_like(x), log)", "log"),
        ("self.network(self.mask.shown(x), c).float()", "self.network(self.mask.shown(x), c)"),
    ),
    *of(
        "ldm/bijection/network.py",
        _LAWS,
        ("h = block(h, embedding)", "h = block(h, None if embedding is None else 0 * embedding)"),
        ("h = h + self.embed(_pooled(c))[:, None]", "h = h + 0 * self.embed(_pooled(c))[:, None]"),
        (
            "self.norm, self.head = Rms(width), nn.Conv2d(width, outputs, kernel, padding=kernel // 2)\n"
            "        nn.init.zeros_(self.head.weight)",
            "self.norm, self.head = Rms(width), nn.Conv2d(width, outputs, kernel, padding=kernel // 2)",
        ),
    ),
    *of(
        "ldm/bijection/transform/spline.py",
        "tests/bijection/transform/test_spline.py",
        ("math.log(math.expm1(1 - self.min_slope))", "0.0"),
        ("inside = x.abs() < self.bound", "inside = x.abs() < 2 * self.bound"),
        ("(1 - least * self.bins) * raw", "raw"),
        ("(b.left + b.right - 2 * s) * between", "(b.left + b.right - s) * between"),
        ("2 * s.log() + above.log() - 2 * below.log()", "s.log() + above.log() - 2 * below.log()"),
        ("linear = b.height * b.left - rise * bend", "linear = b.height * b.left + rise * bend"),
        ("torch.where(inside, -log_slope, 0.0)", "torch.where(inside, log_slope, 0.0)"),
    ),
    *of(
        "ldm/prior/normalizing_flow.py",
        _FLOWS,
        ("self.temperature * random.normal", "random.normal"),
        (".flatten(1).sum(1) + log_det", ".flatten(1).sum(1) - log_det"),
        (">= _EXAMPLES:", ">= 10 * _EXAMPLES:"),
    ),
    *of(
        "ldm/prior/realnvp.py",
        _FLOWS,
        ("if shape[1:] == (1, 1):", "if False:"),
        ("k % 2 != (couplings - 1) % 2", "False"),
    ),
    *of("ldm/prior/glow.py", _FLOWS, ("transform = transform or Affine()", "transform = Affine()")),
]
