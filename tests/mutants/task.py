"""Faults of ldm/task, of what it is handed, and of `ldm apply`."""

from tests.mutants.fault import of

FAULTS = [
    *of(
        "ldm/task/rows.py",
        "tests/task/test_base.py",
        ("row - self.first)", "row)"),
        ('Random(self.seed, 0, given["index"])', "Random(self.seed, 0, torch.arange(len(rows)))"),
        ('Random(self.seed, 0, given["index"])', 'Random(0, 0, given["index"])'),
        ("if not picture.isfinite().all():", "if False:"),
        ("values[~values.isnan()]", "values"),
        ("_mean(values[first:])", "_mean(values)"),
        ("found[:, 0] if self.task.takes == 1 else found", "found[:, 0]"),
        ("len(images) < task.takes", "len(images) < 1"),
    ),
    *of(
        "ldm/task/base.py",
        "tests/task/test_base.py",
        ("max(images - self.takes + 1, 0)", "images"),
        ("if not isinstance(model.prior, capability):", "if False:"),
        ("if issubclass(kind, capability) and not", "if not"),
    ),
    *of(
        "ldm/data/inputs.py",
        "tests/data/test_inputs.py",
        ("files.sort(key=lambda file: natural(file.relative_to(path).as_posix()))", "files.sort()"),
        ("x.abs().max() > 1 + 1e-3", "x.abs().max() > 1e3"),
        ("digest.update(name.encode())", "pass"),
        ("digest.update(x.numpy().tobytes())", "pass"),
        ("fitted += changed", "fitted += 1"),
        ("if self._kept is None else self._kept[row]", "if self._kept is None else self._kept[0]"),
    ),
    *of(
        "ldm/command/apply.py",
        "tests/command/test_apply.py",
        ("missing = sorted(set(range(total)) - self._there())", "missing = list(range(total))"),
        ("if all(self._picture(row, name).is_file() for name in pictures)", "if True"),
        ("!= json.loads(json.dumps(facts)):", "is None:"),
        ("if done.asks_prior:", "if True:"),
    ),
    *of(
        "ldm/api.py",
        "tests/test_api.py",
        ("Drawing(None, guidance, steps, prior).applied", "Drawing(None, None, steps, prior).applied"),
        ("[words] * count if", "[words] if"),
        ("_random(x, seed or 0)", "_random(x, 0)"),
        ("if tuple(z.shape) != shape:", "if False:"),
        ("_random(x, seed)\n", "_random(x, 0)\n"),
        ("else [0] * len(x), x.device)", "else [0] * len(x), x.device) if False else {}"),
    ),
    *of(
        "ldm/run/load.py",
        "tests/test_api.py",
        ("            model.config = config\n", ""),
        ("                setattr(model.prior, name, value)", "                pass"),
    ),
    *of(
        "ldm/run/hub.py",
        "tests/run/test_hub.py",
        ("if each.model == model.weights_hash", "if True"),
        ("exist_ok=True)\n    with", "exist_ok=True)\n    return str(address)\n    with"),
        ("private=private, exist_ok", "private=False, exist_ok"),
    ),
    *of(
        "ldm/task/embed.py",
        "tests/command/test_apply.py",
        ("z = own.encode(x).mean", "z = own.posterior(x).mean"),
        ("(decoded - x).square()", "(decoded - x).abs()"),
        ('name.partition("/")[0]', 'name.partition("/")[2]'),
    ),
]
