"""Faults of flows that are differential equations, of couplings, of few-step priors and of masked autoregressive flows."""

from tests.mutants.fault import of

_TRAINING = "tests/prior/test_training.py"

FAULTS = [
    *of(
        "ldm/prior/coupling.py",
        "tests/prior/test_coupling.py",
        ("self.penalty / 2 * torch.cdist", "self.penalty * torch.cdist"),
        ("- 2 * z @ noise.T) / z.shape[1]", "- 2 * z @ noise.T)"),
        ("linear_sum_assignment(cost.numpy())[1]", "linear_sum_assignment(-cost.numpy())[1]"),
        ("torch.searchsorted(rows, own.to(z.device))", "torch.arange(len(own))"),
        ("F.normalize(part, dim=1)", "part"),
        ("if conditions is None or not self.penalty:", "if True:"),
    ),
    *of(
        "ldm/ranks.py",
        "tests/prior/test_coupling.py",
        ("padded = x.new_zeros(max(sizes)", "padded = x.new_zeros(sizes[0]"),
        ("part[:size] for part", "part for part"),
    ),
    *of(
        "ldm/stage/update.py",
        f"{_TRAINING}::test_micro_batches_are_one_batch[ot_flow-kl_f4_small]",
        ("self._held = [*self._held[:part], batch]", "self._held = [batch]"),
        ("if not self.prepares:", "if True:"),
    ),
    *of(
        "ldm/stage/second.py",
        f"{_TRAINING}::test_sharded_ranks_are_one",
        ("        let_go(self._trained)  #", "        pass  #"),
    ),
    *of(
        "ldm/prior/cnf.py",
        "tests/prior/test_cnf.py",
        ("(products * probes).flatten(2).sum((0, 2))", "-(products * probes).flatten(2).sum((0, 2))"),
        ("size * math.log(2 * math.pi)) / 2", "math.log(2 * math.pi)) / 2"),
        ("v.flatten(1).square().sum(1), products", "v.flatten(1).square().mean(1), products"),
        ("return self.moved(z, c, 0.0, 1.0)", "return self.moved(z, c, 1.0, 0.0)"),
        ('"jacobian": self.jacobian * jacobian', '"jacobian": self.jacobian * kinetic'),
        (
            'random.normal("noise", tuple(z.shape[1:])) if noise is None else noise',
            'random.normal("noise", tuple(z.shape[1:]))',
        ),
    ),
    *of(
        "ldm/prior/cnf.py",
        "tests/experiment/test_check.py",
        ("return self.solver.adaptive", "return False"),
    ),
    *of(
        "ldm/experiment/check.py",
        "tests/experiment/test_check.py",
        ("if model.prior.TUNES and not begins:", "if False:"),
        ("        _check_shared(model.prior)\n", ""),
        ("        check_sharding(networks, nn", "        (networks, nn"),
        ('    _check_trainer(config["trainer"])\n', ""),
        ('"max_time": ("budget.seconds",)', '"max_time": ("budget.second",)'),
    ),
    *of(
        "ldm/prior/consistency.py",
        "tests/prior/test_consistency.py",
        ("self.q ** (a + 1)", "self.q**a"),
        ("torch.sigmoid(-self.b * tau / 2)", "torch.sigmoid(-self.b * tau)"),
        ("- self.c) / (tau - rho)", "- self.c) / tau"),
        ("devices), torch.no_grad():", "devices), torch.enable_grad():"),
        ("min(update // self.every, self.last)", "update // self.every"),
        ("if factor > 0.5:", "if False:"),
        ('random.normal(f"noise {step}"', 'random.normal("prior"'),
        (".clamp(max=self.highest)", ".clamp(max=1e9)"),
        ("(1 + tau.square()).sqrt()", "tau"),
    ),
    *of(
        "ldm/prior/mean_flow.py",
        "tests/prior/test_mean_flow.py",
        ("return v - along(t - r, z) * derivative", "return v + along(t - r, z) * derivative"),
        ("(along_path.contiguous(), torch.ones_like(t))", "(along_path.contiguous(), torch.zeros_like(t))"),
        ("self.velocity(z, t, t, c) if self.marginal else v", "v"),
        ("(1 - self.guidance - self.own)", "(1 - self.guidance)"),
        ("< self.equal, t, torch", "> self.equal, t, torch"),
        ("** -self.power", "** self.power"),
        ("z = z - along(t - r, z) * self", "z = z + along(t - r, z) * self"),
        ("return self.guidance + self.own != 1", "return False"),
    ),
]
