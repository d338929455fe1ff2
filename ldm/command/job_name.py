"""The names of a sweep's runs: what each job has of its own, in letters that need no
quotes in a shell or in Hydra's grammar."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence

from ldm.command.grammar import unquoted

_END = 40  # letters of a word in a run's name: of a long path its end
_LONGEST = 120  # letters of a run's name; a file system takes 255 bytes


def job_name(words: Sequence[str], common: Collection[str]) -> str:
    """What a job has of its own, its words but for those of the keys in `common`, as the name of a directory.

    It depends on nothing but these words, so that a job has the same name whatever other jobs there are and whichever
    process asks. Where the name would not hold all of a word (another letter stands for `/`, or it is too long), or could be
    read as other words, a hash of the words ends it, so that no two jobs have one name.
    """
    own = [word.lstrip("+~") for word in words if key_of(word) not in common]
    told = [(_plain(key, "."), unquoted(value)) for key, _, value in (word.partition("=") for word in own)]
    said = "_".join(f"{key}-{_plain(value, '-')}" for key, value in told) or "only"
    ambiguous = any(f"_{key}-" in value for key, _ in told for _, value in told)
    if len(said) <= _LONGEST and not ambiguous and all(_plain(value, "-") == value for _, value in told):
        return said
    return f"{said[:_LONGEST]}-{_hash(own)}"


def key_of(word: str) -> str:
    """What a word is of: `stage@second` of `stage@second=none`, `first.steps` of `++first.steps=3`."""
    return word.partition("=")[0].lstrip("+~")


def _plain(text: str, other: str) -> str:
    """A text in letters that need no quotes in a shell or in Hydra's grammar."""
    changed = re.sub(r"[^\w.-]+", other, text, flags=re.ASCII)
    return text if changed == text and len(text) <= _END else changed.strip(other)[-_END:]


def _hash(words: list[str]) -> str:
    return hashlib.blake2b("\0".join(words).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
