#!/usr/bin/env python3
"""Prints a command of README.md, so that CI runs what the reader is told.

A command is the shell block that follows `<!-- command: NAME -->`:

    python tools/readme_command.py test
"""

from __future__ import annotations

import pathlib
import re
import sys

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"
COMMAND = re.compile(
    r"^<!-- command: (?P<name>\w+) -->\n+```sh\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def commands(text: str) -> dict[str, str]:
    """The commands of a README by name; ValueError if one is there twice."""
    found: dict[str, str] = {}
    for match in COMMAND.finditer(text):
        if match["name"] in found:
            raise ValueError(f"two commands are called {match['name']}")
        found[match["name"]] = match["text"].strip()
    return found


def main(arguments: list[str]) -> int:
    """The command line: 0 printed, 2 there is no such command."""
    known = commands(README.read_text(encoding="utf-8"))
    if len(arguments) != 1 or arguments[0] not in known:
        print(f"usage: readme_command.py {'|'.join(known)}", file=sys.stderr)
        return 2
    print(known[arguments[0]])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
