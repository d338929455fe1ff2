"""Faults of ldm/random.py, types.py, tensors.py, files.py, build.py and settings.py."""

from tests.mutants.fault import of

FAULTS = [
    *of(
        "ldm/eight_bits.py",
        "tests/test_eight_bits.py",
        ("return ((x + 1) * 127.5).round()", "return ((x + 1) * 127.5).floor()"),
        ("x = x[:, :3] * alpha + (1 - alpha)", "x = x[:, :3] * alpha - (1 - alpha)"),
        ("x[:, :3] * alpha + (1 - alpha)", "x[:, :3] * alpha"),
        ("((x + 1) * 127.5).round()", "((x + 1) * 127.5)"),
        (".nan_to_num(0.0).clamp(-1, 1)", ".nan_to_num(1.0).clamp(-1, 1)"),
    ),
    *of(
        "ldm/build.py", "tests/command/test_words.py", ("near = difflib.get_close_matches(word, known, 1)", "near = []")
    ),
    *of(
        "ldm/run/record.py",
        "tests/command/test_evaluate.py",
        (
            "newest = {each.metric: each for each in records}",
            "newest = {each.metric: each for each in reversed(records)}",
        ),
    ),
    *of(
        "ldm/signature.py",
        "tests/test_signature.py",
        ("elif not found.free and key not in beside:", "elif key not in beside:"),
        ("elif not found.free and key not in beside:", "elif not found.free:"),
        ("or not within(path, packages()):", "or False:"),
        ("defaults = [None] * (len(placed) - len(every.defaults)) + every.defaults", "defaults = every.defaults"),
        ("return Any if self.annotation is None else", "return Any if True else"),
        ('said.get(name) or inherited.get(name, "")', 'said.get(name, "")'),
    ),
    *of(
        "ldm/command/help.py",
        "tests/command/test_help.py",
        ("lines += textwrap.wrap(piece, width,", "lines += textwrap.wrap(piece, 10 * width,"),
        ('yield f"    {argument.doc}"', 'yield ""'),
        ('if said.startswith("@package"):', "if True:"),
    ),
    *of(
        "ldm/command/words.py",
        "tests/command/test_help.py",
        ("return _unasked(key, known) if asked else _alone(argument, before)", "return _alone(argument, before)"),
    ),
    *of(
        "ldm/command/verbs.py",
        "tests/test_start.py",
        ("checked(config, PIECES)", 'composed(CONF, "config", [])'),
        ("from ldm.command.words import SWEEP\n", "import torch\nfrom ldm.command.words import SWEEP\n"),
    ),
    *of(
        "ldm/random.py",
        "tests/test_random.py",
        ('"\\x1f".join(map(str, keys))', '"".join(map(str, keys))'),
        (
            "_mix(self.rows.to(device) * _ODD_ROW + key)",
            "_mix(torch.arange(len(self.rows)).to(device) * _ODD_ROW + key)",
        ),
        ("seed_of(self.seed, self.step, stream)\n        rows", "seed_of(self.seed, stream)\n        rows"),
        ("(-2 * torch.log1p(-u[:, :half])).sqrt()", "(-torch.log1p(-u[:, :half])).sqrt()"),
        (
            "u = self._uniform(stream, 2 * half, self.rows.device)",
            "u = self._uniform(stream, half, self.rows.device).repeat(1, 2)",
        ),
        ("strata = (self.rows + offset) % self.total", "strata = offset + 0 * self.rows"),
        ("(strata + self.uniform(stream)) / self.total", "strata / self.total"),
        ('seed_of(self.seed, self.step, stream, "offset") % self.total', "0"),
        ("self.total = len(rows) if total is None else total", "self.total = len(rows)"),
        ("self.rows[rows], self.total)", "self.rows[rows])"),
        ("& ((1 << (64 - bits)) - 1)", ""),
        ("_shift(bits, 40)", "_shift(bits, 41)"),
    ),
    *of(
        "ldm/types.py",
        ("tests/test_types.py",),
        ("null, dropped = self.null(), u < p", "null, dropped = self.null(), u < 1 - p"),
        ("None if own is None else empty.expand_as(own)", "own"),
        ("None if own[0] is None else torch.cat(own)", "None if own[0] is None else torch.cat(own[::-1])"),
        ("None if self.spatial is None else self.spatial.shape[1]", "None"),
        (
            "function(part) for part in (self.tokens, self.mask, self.spatial)",
            "function(part) for part in (self.tokens, None, self.spatial)",
        ),
        (
            "return Context(moved.tokens, moved.mask, moved.spatial, empty)",
            "return Context(moved.tokens, moved.mask, moved.spatial)",
        ),
    ),
    *of(
        "ldm/tensors.py",
        ("tests/test_tensors.py",),
        ("digest.update(name.encode())", "pass"),
        ('b" " * (-len(text) % 8)', 'b" " * 3'),
        ("(-item[1].element_size(), item[0])", "(item[1].element_size(), item[0])"),
        ("[at, at + tensor.nbytes]", "[at, at + tensor.numel()]"),
        ("data = data[os.write(descriptor, data) :]", "data = data[os.write(descriptor, data[:7]) + 1 :]"),
        ("weights_only=True", "weights_only=False"),
        ("os.posix_fallocate(descriptor, 0, size)", "pass"),
        ("return len(_header(_ordered(tensors))) + sum", "return sum"),
    ),
    *of(
        "ldm/files.py",
        ("tests/test_whole_files.py",),
        ("if error.filename is not None:", "if error.filename is None:"),
        (
            "os.replace(temporary, path)\n    sync(path.parent)\n\n\ndef write_json",
            "path.write_text(text)\n    sync(path.parent)\n\n\ndef write_json",
        ),
        ("ensure_ascii=False", "ensure_ascii=True"),
        (
            "    except BaseException:\n        shutil.rmtree(temporary, ignore_errors=True)\n        raise",
            "    except BaseException:\n        raise",
        ),
        ("shutil.rmtree(old)\n", "pass\n"),
        ("digest.update(block)", "digest.update(block[:1])"),
    ),
    *of(
        "ldm/build.py",
        "tests/test_build.py",
        ("if not inspect.isclass(found) or not within(found.__module__, packs):", "if not inspect.isclass(found):"),
        ("if key not in named and not free:", "if False:"),
        ("if missing and not partial:", "if False:"),
        ("if not wanted or issubclass(kind, wanted):", "if True:"),
        (
            "not isinstance(found, types.ModuleType) or found.__name__ != name",
            "not isinstance(found, types.ModuleType)",
        ),
        ("arguments |= given", "arguments = given | arguments"),
        (
            'functools.partial(target, **arguments) if config.get("_partial_")',
            'functools.partial(target) if config.get("_partial_")',
        ),
        ("arguments[key] = plain(value, annotation, spot)", "plain(value, annotation, spot)"),
    ),
    *of(
        "ldm/build.py",
        "tests/run/test_load.py::test_a_name_is_the_class_and_what_is_not_the_default",
        ("name not in leave and arguments[name] != parameters[name].default", "name not in leave"),
        ('return f"{value:.12g}"', 'return f"{value:.12f}"'),
    ),
    *of(
        "ldm/experiment/check.py",
        ("tests/test_messages.py", "tests/test_build.py", "tests/test_plain_settings.py"),
        ("if settings.name is not None and not _NAME.fullmatch(settings.name):", "if False:"),
        ("_check_optimizer(config[stage], stage)", "pass"),
        ('config[stage].get("accumulate", 1))', "1)"),
        ("check(config[part], part, _GIVEN.get(part, ()))", "pass"),
        ("{nearest(key, [*fields, *NODES])}", ""),
    ),
]
