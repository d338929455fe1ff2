"""Faults of ldm/demo, and of watching a sample."""

from tests.mutants.fault import of

FAULTS = [
    *of(
        "ldm/demo/turn.py",
        "tests/demo/test_turn.py",
        ("if self.clock() > end:", "if self.clock() < end:"),
        ("            self.unwanted.set()\n", ""),
        ("            with self.free:\n                end", "            if self.free:\n                end"),
        ("            hook.remove()", "            pass"),
        ("                if error is not None:\n                    raise error\n", ""),
    ),
    *of(
        "ldm/demo/picture.py",
        "tests/demo/test_picture.py",
        ("_TOUCHED = 32", "_TOUCHED = 127"),
        ("ImageChops.lighter", "ImageChops.darker"),
        ("(*frames, *frames[-2:0:-1])", "(*frames, *frames[::-1])"),
        ("    if found.all():", "    if False:"),
        ("min(picture.width / width", "max(picture.width / width"),
    ),
    *of(
        "ldm/demo/studio.py",
        "tests/demo/test_studio.py",
        ("torch.where(where, x, given)", "x"),
        ('words["prior"] = {"sampler"', 'words["priors"] = {"sampler"'),
        ("if time.monotonic() - last >= self.pause:", "if True:"),
        ("self._words(replace(request, given=given, seed=seed))", "self._words(replace(request, given=given))"),
        ("        if unread:", "        if False:"),
        ("        each.check(request)", "        pass"),
    ),
    *of(
        "ldm/demo/walk.py",
        "tests/demo/test_studio.py",
        ("torch.lerp(part[:1], part[1:]", "torch.lerp(part[1:], part[:1]"),
        ("(second & (place > 0))", "second"),
        ("if noise.others or not noise.streams:", "if not noise.streams:"),
    ),
    *of(
        "ldm/demo/offer.py",
        "tests/demo/test_studio.py",
        ("    if drop == 0:\n        return None\n", ""),
        ("max(chosen, default=", "max([], default="),
        ("first.classes != second.classes", "len(first.classes) != len(second.classes)"),
    ),
    *of(
        "ldm/demo/answers.py",
        "tests/demo/test_studio.py",
        ("    except (ValueError, ArithmeticError) as error:", "    except (TypeError, ArithmeticError) as error:"),
        ("html(replace(last, note=str(error)))", "refused(str(error))"),
    ),
    *of(
        "ldm/demo/limits.py",
        "tests/demo/test_studio.py",
        ("and not isinstance(value, bool) and value == value", "and value == value"),
        ("not low <= value <= high", "value > high"),
    ),
    *of(
        "ldm/demo/view.py",
        "tests/demo/test_view.py",
        ("escape(text)}</p>", "text}</p>"),
        ("last or max(picture.size) < _SMALL", "last"),
    ),
    *of(
        "ldm/command/demo.py",
        "tests/command/test_demo.py",
        ("if name in found or not value:", "if not value:"),
        ('    if "run" not in found:', "    if False:"),
    ),
    *of(
        "ldm/task/tools/glimpse.py",
        "tests/task/test_glimpse.py",
        ("        prior.watch = before", "        pass"),
        ("if watch is None or not isinstance(prior, Gradual):", "if watch is None:"),
    ),
    *of(
        "ldm/diffusion/denoiser.py",
        "tests/task/test_glimpse.py",
        ("return Watched(self.denoiser.within(t, s), self.tell)", "return self.denoiser.within(t, s)"),
        ("self.tell(t[0].item(), x)", "self.tell(t[0].item(), x_t)"),
    ),
]
