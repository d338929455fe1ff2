"""`python -m ldm VERB`: one file of ldm/command a verb. Nothing heavy is imported before a verb asks for it."""

from __future__ import annotations

import argparse
import sys

from ldm.command import store


def main(words: list[str] | None = None) -> int:
    """Do what the words say; the exit code."""
    parser = argparse.ArgumentParser("ldm", description="Look after runs and what they share.")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    store.add(verbs)
    chosen = parser.parse_args(words)
    try:
        return chosen.act(chosen)
    except (OSError, ValueError) as error:
        print(f"ldm: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
