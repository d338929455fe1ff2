"""Faults of ldm/callback, ldm/main.py and ldm/sweep.py."""

from tests.mutants.fault import of

FAULTS = [
    *of(
        "ldm/callback/grid.py",
        "tests/callback/test_grid.py",
        ("max(1, -(-cell // width))", "max(1, cell // width)"),
        ("PIL.Image.Resampling.NEAREST", "PIL.Image.Resampling.BILINEAR"),
        (
            "Cell((x, y, x + wide, y + high), captions[i], title)",
            "Cell((x, y, x + high, y + wide), captions[k], title)",
        ),
        ("if len(found) > lines:", "if len(found) > lines + 1:"),
        ("picture.paste(image, (x, y))", "picture.paste(image, (y, x))"),
        ("pixels[k][i]).resize", "pixels[0][i]).resize"),
        ('"images": images,', '"images": step,'),
    ),
    *of(
        "ldm/callback/pictures.py",
        "tests/test_products.py",
        ("with stage.average.applied():", "if True:"),
        ('Random(stage.seed, 0, batch["index"])', 'Random(0, 0, batch["index"])'),
        ('self.data.items("val", self.rows)', 'self.data.items("train", self.rows)'),
        (
            '("original", real), ("reconstruction", self.model.reconstruct(real))',
            '("original", self.model.reconstruct(real)), ("reconstruction", real)',
        ),
        ("images = stage.updates * self.data.batch_size", "images = stage.updates"),
        ('return list(batch["caption"])', 'return list(batch["caption"])[::-1]'),
        ("torch.linspace(0, size - 1, min(count, size))", "torch.linspace(0, size // 2, min(count, size))"),
        ("self.model.eval()\n", "self.model.train()\n"),
    ),
    *of(
        "ldm/callback/pictures.py",
        ("tests/stage/test_pictures.py",),
        ("module.training = training", "pass"),
        ("(index + 1) % stage.accumulate == 0", "index % stage.accumulate == 0"),
        ("(stage.updates % every and not done)", "(stage.updates % every)"),
        ("[classes[i] for i in", "[str(i) for i in"),
        ('if any(batch.get("caption", ())):', 'if "caption" in batch:'),
    ),
    *of(
        "ldm/callback/progress.py",
        ("tests/callback/test_bar.py",),
        ("if k not in hidden and not", "if k in hidden and not"),
        ("latest['skipped']:.0f} updates skipped", "latest['rate']:.0f} updates skipped"),
        (
            "fresh, self._shown = stage.latest is not self._shown, stage.latest",
            "fresh, self._shown = stage.latest is self._shown, stage.latest",
        ),
        ("completed=stage.updates,", "completed=0,"),
        ("total=stage.steps,", "total=stage.updates,"),
    ),
    *of(
        "ldm/callback/sink.py",
        "tests/callback/test_sink.py",
        ("self.alive = False\n            log", "log"),
        ("if not place.exists():", "if True:"),
        (
            'self.writer.add_scalar(f"{stage}/{key}", value, images)',
            'self.writer.add_scalar(f"{stage}/{key}", value, 0)',
        ),
        ('{f"{stage}/images": images})\n\n    def picture', '{f"{stage}/images": 0})\n\n    def picture'),
        ("except FileNotFoundError:\n        return False", "except FileNotFoundError:\n        return True"),
    ),
    *of(
        "ldm/main.py",
        "tests/test_main.py",
        ("return _tell(error, DIVERGED)", "return _tell(error, FAILED)"),
        ("return _tell(error, FAILED)", "return FINISHED"),
        ('[*lines[:_SCREEN], "..."] if len(lines) > _SCREEN else lines', "lines"),
        ('return f"++{argument}" if dotted else argument', "return argument"),
        ('text = f"{said[-1]} (in a data worker)"', 'text = f"{said[0]} (in a data worker)"'),
        ('log.error("%s", error, exc_info=error)', 'log.error("%s", error)'),
        ("difflib.get_close_matches(word, known, 1)", "[]"),
    ),
    *of(
        "ldm/sweep.py",
        "tests/test_sweep.py",
        ('if row.get("code") != FINISHED or row.get("words") != words:', "if True:"),
        ('if row.get("code") != FINISHED or row.get("words") != words:', 'if row.get("code") != FINISHED:'),
        ('if row["code"] == PREEMPTED:\n            break', "pass"),
        ("FINISHED if codes == {FINISHED} else", "FINISHED if FINISHED in codes else"),
        ("if word not in common)", "if word in common)"),
        ("return said[-1] if said", "return said[0] if said"),
    ),
]
