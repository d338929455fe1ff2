"""Faults of what models cost, and of the metrics of latents and of noise."""

from tests.mutants.fault import of

FAULTS = [
    *of(
        "ldm/stage/flops.py",
        "tests/stage/test_flops.py",
        ("if update & (update - 1):", "if update > 1:"),
        ("self.rate = self._counting * ranks", "self.rate = self._counting"),
        ("self._counting += counter.total", "self._counting = counter.total"),
        ('self.total, self.rate, self._counting = state.get("total"),', "self.total, self.rate, self._counting = 0,"),
    ),
    *of("ldm/cost.py", "tests/stage/test_flops.py", ("module._compiled_call_impl = None", "pass")),
    *of(
        "ldm/metric/cost.py",
        ("tests/metric/test_cost.py", "tests/metric/test_ranks.py"),
        ("timed = whole[1:] if len(whole) > 1 else whole", "timed = whole"),
        ("whole = drawn[drawn[:, 0] == drawn[:, 0].max()]", "whole = drawn"),
        ("known, ranks = gather_rows(self._known)", "known, ranks = self._known"),
        ("ranks[:, :2].sum(0).tolist()", "ranks[:, :2].mean(0).tolist()"),
        ("if each and all(stage in each", "if each and any(stage in each"),
        ('"sequential_steps": len(calls)', '"sequential_steps": sum(calls)'),
    ),
    *of(
        "ldm/metric/latents.py",
        "tests/metric/test_latents.py",
        ("variance = between + within", "variance = between"),
        ("autoencoder.whiten(raw).kl()", "raw.kl()"),
        ("(between <= DEAD * variance)", "(between < DEAD * variance)"),
        ("places * entropy / math.log(2)", "places * entropy"),
        ("codes.view(-1, count).sum(0)", "codes.view(-1, count)[0]"),
    ),
    *of(
        "ldm/metric/ms_ssim.py",
        "tests/metric/test_perceptual.py",
        ("if min(self._size) < SMALLEST:", "if min(self._size) <= SMALLEST:"),
        ("data_range=255.0", "data_range=1.0"),
    ),
    *of(
        "ldm/metric/perceptual.py",
        "tests/metric/test_perceptual.py",
        ("x, y = x.float() / 127.5 - 1, y.float() / 127.5 - 1", "x, y = examples.real, examples.reconstruction"),
    ),
    *of(
        "ldm/metric/probe.py",
        "tests/metric/test_probe.py",
        ("alone = y - rest / (1 - leverage)", "alone = y - rest / (1 - 0 * leverage)"),
        ("for share in reversed(PENALTIES)", "for share in PENALTIES"),
        ("std = torch.where(std > 0, std, 1.0)", "std = std"),
        ("known = (labels >= 0).cpu()", "known = (labels >= -1).cpu()"),
        ("set_hash(torch.cat([learnt.hashes, told.hashes]))", "set_hash(told.hashes)"),
        ("if scene.training.labels is None:", "if False:"),
    ),
    *of(
        "ldm/metric/path_length.py",
        "tests/metric/test_path_length.py",
        ("/ STEP**2", "/ STEP"),
        ("column[(column >= low) & (column <= high)]", "column"),
        ("((1 - t) * angle).sin() / sine", "1 - t"),
        ("if between.broken is not None:", "if False:"),
        ("None if len(self.streams) == 1 else", "None if len(self.streams) >= 1 else"),
    ),
    *of(
        "ldm/prior/quarters.py",
        "tests/prior/test_quarters.py",
        ("clamp(0, 3)", "clamp(0, 4)"),
        ("torch.where(quarter == k, losses, torch.nan)", "torch.where(quarter == k, losses, 0)"),
    ),
]
