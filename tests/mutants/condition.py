"""Faults of ldm/condition."""

from tests.mutants.fault import of

FAULTS = [
    *of(
        "ldm/condition/text.py",
        "tests/condition/test_text.py",
        ("[row[: self.length] for row in rows]", "[row[-self.length :] for row in rows]"),
        ("self.embedding(ids) + self.position[:n]", "self.embedding(ids)"),
        ("mask = ids != PAD", "mask = ids >= PAD"),
        ("x = block(x, mask)", "x = block(x, torch.ones_like(mask))"),
        ("context.drop(1.0, (mask.sum(1) > 1).float())", "context"),
        (
            "normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])",
            "normalizers.Sequence([normalizers.NFKC()])",
        ),
        ("tuple[int, ...]]:\n        if self._tokenizer is None", "tuple[int, ...]]:\n        if False"),
        ("(START, *(i + OURS for i in found.ids))", "(START, *(i + START for i in found.ids))"),
        ("vocab_size=self.vocabulary - OURS", "vocab_size=self.vocabulary"),
        (
            "self._tokenizer = tokenizer\n        self._ids.clear()\n        log.info",
            "self._tokenizer = tokenizer\n        log.info",
        ),
        ("Context(tokens=self.norm(x), mask=mask, empty=empty)", "Context(tokens=x, mask=mask, empty=empty)"),
        (
            "first = torch.arange(n, device=ids.device)[None] == 0",
            "first = torch.arange(n, device=ids.device)[None] >= 0",
        ),
        ("attention(self.attention_norm(x), mask=mask)", "attention(self.attention_norm(x))"),
    ),
    *of(
        "ldm/condition/label.py",
        "tests/condition/test_label.py",
        ("torch.where(label < 0, self.classes, label)", "torch.where(label < 0, 0, label)"),
        ("self.tokens.weight[-1:][None]", "self.tokens.weight[:1][None]"),
        ("& (label < self.classes)).all()", "& (label <= self.classes)).all()"),
        ("known = ((label >= -1)", "known = ((label >= -2)"),
        ("return self.names.index(str(word))", "return self.names.index(str(word)) + 1"),
        ("-1 <= number < self.classes:", "-1 <= number <= self.classes:"),
        ("if str(word) in self.names:", "if False:"),
        ("names and classes not in (None, len(names)):", "False:"),
        ("classes or len(names), ContextShape", "classes, ContextShape"),
        ("if names.count(name) > 1})", "if names.count(name) > 2})"),
        ("difflib.get_close_matches(str(word), self.names, 3, 0.5)", "[]"),
        ('needs = ("label",)', "needs = ()"),
        ('torch.full_like(batch["index"], -1)', 'torch.full_like(batch["index"], 0)'),
    ),
    *of(
        "ldm/condition/conditioner.py",
        ("tests/condition/test_text.py", "tests/condition/test_frozen.py"),
        ("[caption.strip() for caption in captions]", "[caption for caption in captions]"),
        ("min(-(-count // step) * step, most)", "min(count // step * step, most)"),
    ),
    *of(
        "ldm/condition/memory.py",
        "tests/condition/test_memory.py",
        ("self._kept.popitem(last=False)", "self._kept.popitem(last=True)"),
        ("self._kept.move_to_end(caption)", "self._kept.move_to_end(caption, last=False)"),
        ("for caption in dict.fromkeys(captions) if", "for caption in list(captions) if"),
        ("found[caption] = row[0]", "found[caption] = row[0][:1]"),
    ),
    *of(
        "ldm/condition/frozen.py",
        "tests/condition/test_frozen.py",
        (
            "mask=places < lengths.to(device)[:, None], empty=empty",
            "mask=places <= lengths.to(device)[:, None], empty=empty",
        ),
        ("hidden[i, : len(row)] = row", "hidden[i, -len(row) :] = row"),
        ('float(caption != "") for caption', "1.0 for caption"),
        ("encoder.float().eval().requires_grad_(False)", "encoder.float().train().requires_grad_(False)"),
        ("attention_mask=mask.to(device)).last_hidden_state", "attention_mask=mask.to(device)).last_hidden_state * 2"),
        ("size = 1 if self.empty.device.type", "size = 64 if self.empty.device.type"),
    ),
    *of(
        "ldm/types.py",
        ("tests/condition/test_text.py", "tests/condition/test_label.py"),
        ("null, dropped = self.null(), u < p", "null, dropped = self.null(), u >= p"),
        ("torch.where(dropped.view(-1, *[1] * (own.ndim - 1)), getattr(null, name), own)", "own"),
    ),
]
