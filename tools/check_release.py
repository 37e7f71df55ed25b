#!/usr/bin/env python3
"""Checks that a tag, the metadata and the change log speak of one version.

python tools/check_release.py v0.1.0
"""

from __future__ import annotations

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = re.compile(r'^__version__\b.*= "(.*)"$', re.MULTILINE)
HEADING = re.compile(r"^## (\S+)(?: - (\d{4}-\d{2}-\d{2}))?$", re.MULTILINE)


def version(root: pathlib.Path) -> str:
    """The version in pyproject.toml."""
    with open(root / "pyproject.toml", "rb") as source:
        found = tomllib.load(source)["project"]["version"]
    if not isinstance(found, str):
        raise TypeError("the version in pyproject.toml is not a string")
    return found


def package_version(root: pathlib.Path) -> str | None:
    """The version that `virtdisk.__version__` gives."""
    text = (root / "virtdisk" / "__init__.py").read_text(encoding="utf-8")
    match = PACKAGE.search(text)
    return match[1] if match else None


def headings(root: pathlib.Path) -> dict[str, str | None]:
    """The versions in CHANGELOG.md, newest first, with their dates."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    return {match[1]: match[2] for match in HEADING.finditer(text)}


def problems(root: pathlib.Path, tag: str) -> list[str]:
    """What stands against releasing this tag; empty if nothing does."""
    current = version(root)
    dates = headings(root)
    found = []
    if tag != f"v{current}":
        found.append(f"the tag is {tag}, pyproject.toml says {current}")
    if package_version(root) != current:
        found.append(f"virtdisk/__init__.py says {package_version(root)}")
    if current not in dates:
        found.append(f"CHANGELOG.md has no heading for {current}")
    elif dates[current] is None:
        found.append(f"CHANGELOG.md has no date for {current}")
    return found


def main(arguments: list[str]) -> int:
    """The command line: 0 in order, 1 problems, 2 usage."""
    if len(arguments) != 1:
        print("usage: check_release.py TAG", file=sys.stderr)
        return 2
    found = problems(ROOT, arguments[0])
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
