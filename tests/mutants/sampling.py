"""Faults of ldm/command/sample.py, ldm/command/evaluate.py and ldm/model.py."""

from tests.mutants.fault import of

FAULTS = [
    *of(
        "ldm/command/sample.py",
        "tests/command/test_sample.py",
        (
            "Drawing(diffusion, guidance, steps, prior, guide, guide_ema)",
            "Drawing(diffusion, None, steps, prior, guide, guide_ema)",
        ),
        (
            "Drawing(diffusion, guidance, steps, prior, guide, guide_ema)",
            "Drawing(diffusion, guidance, None, prior, guide, guide_ema)",
        ),
        ("        network.compile()", "        pass"),
    ),
    *of(
        "ldm/command/evaluate.py",
        ("tests/command/test_evaluate.py", "tests/run/test_load.py"),
        (
            "Drawing(diffusion, guidance, steps, prior, guide, guide_ema)",
            "Drawing(diffusion, None, steps, prior, guide, guide_ema)",
        ),
        ('facts |= {} if guide is None else {"drawn": {"guide": guide}}', "pass"),
    ),
    *of(
        "ldm/model.py",
        "tests/test_model.py",
        (
            'batch).drop(self.condition.drop, random.uniform("drop"))',
            'batch).drop(1 - self.condition.drop, random.uniform("drop"))',
        ),
        ("self.condition.drop == 0 and", "True and"),
        ("if self.condition.needs and", "if"),
        (
            'self.autoencoder.kept(batch["mean"].float(), batch["std"].float())',
            'self.autoencoder.bottleneck.kept(batch["mean"].float(), batch["std"].float())',
        ),
        ('self.autoencoder.eval().encode(batch["image"])', 'self.autoencoder.eval().posterior(batch["image"])'),
        ('posterior.sample(random.normal("posterior", tuple(posterior.mean.shape[1:])))', "posterior.mean"),
        ("own.decode(z)).float()", "own.decode_raw(z)).float()"),
        ("decode(z)).float().clamp(-1, 1)", "decode(z)).float().clamp(0, 1)"),
        ("decode(self.autoencoder.encode(x).mean)", "decode(self.autoencoder.posterior(x).mean)"),
    ),
    *of(
        "ldm/command/sample.py",
        "tests/command/test_sample.py",
        ('Random(seed, 0, batch["index"])', 'Random(0, 0, batch["index"])'),
        ('Random(seed, 0, batch["index"])', "Random(seed, 0, torch.arange(len(rows)))"),
        ("[captions[i] for i in rows]", "[captions[i] for i in range(len(rows))]"),
        (
            "torch.tensor([labels[i] for i in rows], device=device)",
            "torch.tensor([labels[i] * 0 for i in rows], device=device)",
        ),
        (
            "return [line for line in lines for _ in range(n)], None",
            "return [line for _ in range(n) for line in lines], None",
        ),
        (
            "model = drawing.load(run, weights, ema, device_of(device))",
            "model = drawing.load(run, 'average', ema, device_of(device))",
        ),
        ("not (folder / _name(row)).exists()]", "True]"),
        ("!= facts:", "is facts:"),
        ("if not images.isfinite().all():", "if not images.isfinite().any():"),
        ("if len(given) > 1:", "if len(given) > 2:"),
        ("[model.condition.number(label)] * n", "[0 * model.condition.number(label)] * n"),
        ("and 0 <= label < len(model", "and 0 < label < len(model"),
        (
            '{"index": torch.tensor(rows, device=device), "negative": negative}',
            '{"index": torch.tensor(rows, device=device)}',
        ),
        ('"weights_hash": _weights_hash(model)}', '"weights_hash": ""}'),
        ("_check_trained(model, run)\n    if", "if"),
        ("words and words[:_SHOWN]", "words and words[::-1]"),
        ("missing[start : start + batch]", "missing[: start + batch]"),
        ('rearrange(picture, "c h w -> h w c")', 'rearrange(picture.flip(0), "c h w -> h w c")'),
        ("line.strip() for line in", "line for line in"),
    ),
    *of(
        "ldm/command/evaluate.py",
        (
            "tests/command/test_evaluate.py",
            "tests/test_products.py",
            "tests/run/test_load.py::test_records_tell_samplers_and_guidance_apart",
        ),
        ('in {"samples": samples, "seed": seed}.items()', 'in {"seed": seed}.items()'),
        ("measured, named(weights, ema, model))", 'measured, named("average", ema, model))'),
        ("drawing.load(run, weights, ema, device_of(device))", 'drawing.load(run, "average", ema, device_of(device))'),
        ("record.write(place.records, *records)", "record.write(place.records, *records[:1])"),
        ("single.write(place.path)\n", "pass\n"),
    ),
    *of(
        "ldm/run/evaluation.py",
        ("tests/run/test_load.py::test_records_tell_samplers_and_guidance_apart", "tests/command/test_evaluate.py"),
        ('"seed": config["seed"],', '"seed": 0,'),
        ('"data": data.fingerprint,', '"data": "",'),
    ),
    *of(
        "ldm/command/evaluate.py",
        "tests/command/test_evaluate.py",
        ('in {"samples": samples, "seed": seed}.items()', 'in {"samples": samples}.items()'),
        ("if before and data.fingerprint not in before:", "if before and data.fingerprint in before:"),
        ("_check_classes(model, measured)\n    _tell", "_tell"),
        ("merged(own if new is None else _below(own, old, new), given)", "merged(own, given)"),
        ("merged(own, given).items() if node is not None", "merged(own, given).items()"),
        ('value == old and (old is not None or key == "root")', "value == old"),
        ("value.startswith(f\"{old.rstrip('/')}/\")", "value.startswith(old)"),
    ),
    *of(
        "ldm/model.py",
        "tests/command/test_sample.py",
        ('c = c.away_from(self.negative(batch["negative"]))', "pass"),
    ),
    *of(
        "ldm/model.py",
        ("tests/test_products.py", "tests/test_model.py"),
        ("load_weights(model, folder / _FILES[weights])", 'load_weights(model, folder / _FILES["average"])'),
        ("return model.to(device).eval()", "return model.to(device).train()"),
        ("c = self.condition(batch)", "c = self.condition(batch).null()"),
        ("if name.startswith(prefix)}", "if True}"),
        ("if found[name].shape != wanted[name].shape and", "if False and"),
        ('[f"{name} is not expected" for name in sorted(found.keys() - wanted.keys())]', "[]"),
        ('    "ldm.condition",\n', '    "ldm.condition",\n    "ldm.data",\n'),
    ),
]
