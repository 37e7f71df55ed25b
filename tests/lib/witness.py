"""What QEMU says of images that the engine has made."""

from __future__ import annotations

import pathlib
import subprocess

from support import require_tool

QEMU_FORMAT = {".vhd": "vpc", ".vhdx": "vhdx", ".img": "raw", ".iso": "raw"}


def qemu_img(*words: str | pathlib.Path) -> str:
    """Runs qemu-img; its output is the failure's text."""
    tool = require_tool("qemu-img", package="qemu-utils")
    done = subprocess.run(
        [tool, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
    return done.stdout


def check_same(one: pathlib.Path, other: pathlib.Path) -> None:
    """QEMU reads the same from both, and finds no fault in a VHDX."""
    formats = [QEMU_FORMAT[path.suffix] for path in (one, other)]
    qemu_img("compare", "-f", formats[0], "-F", formats[1], one, other)
    for path in (one, other):
        if path.suffix == ".vhdx":
            assert "No errors" in qemu_img("check", "-f", "vhdx", path)
