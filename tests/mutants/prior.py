"""Faults of ldm/prior."""

from tests.mutants.fault import of

_PRIOR = (
    *("tests/prior/test_loss.py", "tests/prior/test_diffusion.py"),
    *("tests/stage/test_second.py", "tests/prior/test_density.py"),
    "tests/run/test_load.py::test_training_has_no_guide",
)

FAULTS = [
    *of(
        "ldm/prior/diffusion.py",
        _PRIOR,
        ('c.drop(self.drop, random.uniform("drop"))', 'c.drop(1 - self.drop, random.uniform("drop"))'),
        ("if self.training:", "if True:"),
        ("if self.training:", "if False:"),
        ('u = random.stratified("time")', 'u = random.uniform("time")'),
        ('eps = random.normal("noise", tuple(z.shape[1:]))', 'eps = random.normal("posterior", tuple(z.shape[1:]))'),
        ('random.normal("offset noise", (z.shape[1], 1, 1))', 'random.normal("offset noise", tuple(z.shape[1:]))'),
        ("eps + self.offset_noise * random", "self.offset_noise * random"),
        ("errors(z, c, u, eps).mean()", "errors(z, c, u, eps).sum()"),
        ("t = self.time(u, schedule)", "t = u"),
        ("schedule.log_snr(t), lambda:", "-schedule.log_snr(t), lambda:"),
        ("lambda: self.time.density(u, schedule)", "lambda: self.time.density(1 - u, schedule)"),
        ('scale * random.normal("prior", tuple(shape[1:]))', 'random.normal("prior", tuple(shape[1:]))'),
        ("times[:1].to(random.rows.device)", "times[1:2].to(random.rows.device)"),
        ("self.guidance(self.denoiser if other is None else", "(self.denoiser if other is None else"),
        ("self.denoiser if other is None else Rescheduled(self.denoiser, other)", "self.denoiser"),
        ("self.grid(denoiser.schedule, self.steps,", "self.grid(self.denoiser.schedule, self.steps,"),
        ("self.lowest(denoiser.schedule))", "0.0)"),
        ("return schedule.time(own.log_snr(torch.tensor([t], dtype=torch.float64))).item()", "return t"),
        ("self._tell_of_drop(guidance(self.denoiser))", "pass"),
        ("if self.drop > 0 or self.context == ContextShape():", "if self.drop > 0:"),
        ("module.unconditional for module", "True for module"),
        ("self.likelihood.log_prob(self.denoiser, z,", "self.likelihood.log_prob(self.guided(), z,"),
        ("random or Random(0, 0, torch.arange(len(z), device=z.device))", "random or Random.fresh(len(z), z.device)"),
        ("parameterization.check(schedule)", "pass"),
        ("if waits_for_guide(guidance):", "if False:"),
    ),
    *of(
        "ldm/prior/normal.py",
        ("tests/prior/test_normal.py",),
        ("z.square() + math.log(2 * math.pi)", "z.square() + math.log(math.pi)"),
        (".flatten(1).sum(1)", ".flatten(1).mean(1)"),
        ('return random.normal("prior", tuple(shape[1:]))', 'return 2 * random.normal("prior", tuple(shape[1:]))'),
        ('{"nll": -self.log_prob(z, c).mean()}', '{"nll": self.log_prob(z, c).mean()}'),
    ),
]
