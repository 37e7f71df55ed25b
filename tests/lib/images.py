"""Images and the disks in them, below the API: by `disk_tool`.

A `DiskTool` makes images and opens disks; the program is built with
AddressSanitizer and UndefinedBehaviorSanitizer, so a finding ends it and
fails the test.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from support import IMAGES, image_path, manifest, require_tool

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
TRANSFER = 4 * MIB
ZEROS = bytes(TRANSFER)
#: Seconds; nothing the tool does takes that long unless it hangs.
PATIENCE = 120.0


class EngineError(Exception):
    """The engine's answer to a command was an error.

    Attributes:
        code: The Win32 error code.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"error {code} (0x{code:08X})")
        self.code = code


class Kind(NamedTuple):
    """What an image is to be.

    Attributes:
        name: `vhdx-fixed`, `vhdx-dynamic`, `vhd-fixed` or `vhd-dynamic`.
        block: Block size in bytes.
        sector: Logical sector size in bytes.
    """

    name: str
    block: int = 2 * MIB
    sector: int = 512

    @property
    def suffix(self) -> str:
        return "." + self.name.split("-")[0]

    def __str__(self) -> str:
        return f"{self.name}-{self.block // 1024}K-{self.sector}"


class Tool:
    """A running `disk_tool`: at most one disk is open in it."""

    def __init__(self, program: pathlib.Path, *, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @property
    def _input(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def _output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def command(
        self, line: str, data: bytes = b"", expect: int = 0
    ) -> tuple[str, bytes]:
        """One command: what follows "ok", and the data after it.

        Raises:
            EngineError: The engine refused.
            AssertionError: The tool ended, or took longer than its patience.
        """
        watch = threading.Timer(self.patience, self.process.kill)
        watch.start()
        try:
            self._input.write(os.fsencode(line) + b"\n" + data)
            self._input.flush()
            answer = self._output.readline().decode()
            status, _, rest = answer.rstrip("\n").partition(" ")
            if status == "error":
                raise EngineError(int(rest))
            assert status == "ok", f"{line!r}: disk_tool ended or hung"
            if rest == "zeros":
                return rest, ZEROS if expect == len(ZEROS) else bytes(expect)
            content = self._output.read(expect) if expect else b""
            assert len(content) == expect
            return rest, content
        except BrokenPipeError:
            raise AssertionError(f"{line!r}: disk_tool is gone") from None
        finally:
            watch.cancel()

    def create(self, kind: Kind, size: int, path: pathlib.Path) -> pathlib.Path:
        """Makes an image of `size` bytes."""
        self.command(f"create {kind.name} {size} {kind.block} {kind.sector} {path}")
        return path

    def create_child(
        self, parent: pathlib.Path, path: pathlib.Path, *, block: int = 2 * MIB
    ) -> pathlib.Path:
        """Makes a differencing image beside its parent."""
        assert parent.parent == path.parent
        self.command(f"create-child {block} {parent.name} {path}")
        return path

    def open(self, path: pathlib.Path, mode: str = "look") -> dict[str, Any]:
        """Opens a disk; the facts about it."""
        facts: dict[str, Any] = json.loads(self.command(f"open {mode} {path}")[0])
        return facts

    def read(self, offset: int, length: int) -> bytes:
        return self.command(f"read {offset} {length}", expect=length)[1]

    def write(self, offset: int, data: bytes) -> None:
        self.command(f"write {offset} {len(data)}", data)

    def zero(self, offset: int, length: int, *, free: bool) -> None:
        """Makes a range read as zeros; `free` is a trim."""
        self.command(f"zero {offset} {length} {int(free)}")

    def flush(self) -> None:
        self.command("flush")

    def resize(self, size: int) -> None:
        """Another virtual size in bytes, whatever the partitions say."""
        self.command(f"resize {size}")

    def compact(self) -> None:
        """Makes the image's file as small as its content allows."""
        self.command("compact")

    def close(self) -> None:
        """Closes the disk."""
        self.command("close")

    def content(self, size: int) -> Iterator[bytes]:
        """The whole disk in pieces."""
        for offset in range(0, size, TRANSFER):
            yield self.read(offset, min(TRANSFER, size - offset))

    def sha256(self, path: pathlib.Path, mode: str = "look") -> str:
        """Of a whole disk."""
        digest = hashlib.sha256()
        for piece in self.content(self.open(path, mode)["size"]):
            digest.update(piece)
        self.close()
        return digest.hexdigest()

    def end(self) -> None:
        """Ends the tool; a sanitizer's finding (a leak) fails the test."""
        self._input.close()
        status = self.process.wait(self.patience)
        self._output.close()
        assert status == 0, f"disk_tool: exit status {status}"

    def kill(self) -> None:
        """Ends it at once, whatever it does."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._input.close()
        self._output.close()


@contextlib.contextmanager
def running(program: pathlib.Path, *, patience: float = PATIENCE) -> Iterator[Tool]:
    """A tool that is ended, and has to end well."""
    tool = Tool(program, patience=patience)
    try:
        yield tool
    except BaseException:
        tool.kill()
        raise
    tool.end()


def unpack(name: str, directory: pathlib.Path) -> pathlib.Path:
    """A real image and all its parents, under the names they look for."""
    facts = manifest()[name]
    for parent in facts.get("parents", []):
        unpack(parent, directory)
    path = image_path(name, directory)
    if facts.get("chain") == "synthetic":
        make_zero_parent(facts, directory)
    if "as_name" in facts:
        path = path.rename(directory / facts["as_name"])
    return path


def make_zero_parent(facts: dict[str, Any], directory: pathlib.Path) -> None:
    """An empty parent that the image takes for the one it was made of."""
    require_tool("qemu-img", package="qemu-utils")
    locator = facts["parent_locator"]
    name = locator["relative_path"].replace("\\", "/").rsplit("/", 1)[-1]
    command = [
        sys.executable,
        str(IMAGES / "zero_parent.py"),
        facts["format"],
        str(directory / name),
        str(facts["virtual_size"]),
        locator["parent_linkage"],
    ]
    subprocess.run(command, check=True)


def copy_sparse(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A copy that keeps its holes."""
    cp = shutil.which("cp")
    assert cp is not None
    subprocess.run([cp, "--sparse=always", source, target], check=True)
    return target
