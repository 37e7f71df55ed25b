"""What type checkers see: strict mypy accepts right use and refuses wrong use,
and the values at run time have the types that the annotations name."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import subprocess
import sys
import types
import typing

import pytest
from support import make_iso, make_vhd, missing

import virtdisk
from virtdisk import _info

PACKAGE = pathlib.Path(virtdisk.__file__).parent

RIGHT = """
import pathlib
import uuid
from typing import BinaryIO, assert_type

import virtdisk

with virtdisk.attach("a.vhd", read_only=True, security=b"x") as disk:
    assert_type(disk, virtdisk.VirtualDisk)
    assert_type(disk.physical_path, str)
    assert_type(disk.raw(), BinaryIO)
    assert_type(disk.info, virtdisk.VirtualDiskInfo)
    assert_type(disk.info.virtual_size, int)
    assert_type(disk.info.identifier, uuid.UUID | None)
    assert_type(disk.info.storage_type, virtdisk.StorageType | int)
opened = virtdisk.open(pathlib.Path("a.vhd"), flags=virtdisk.OpenFlag.CACHED_IO | 1)
opened.attach(restricted_range=(0, 512), flags=virtdisk.AttachFlag(0x40000000))
assert_type(virtdisk.attached(), list[virtdisk.AttachedImage])
assert_type(virtdisk.AccessMask.READ | virtdisk.AccessMask.CREATE, virtdisk.AccessMask)
made = virtdisk.create("b.vhdx", 64 * virtdisk.GiB, type="fixed", progress=print)
assert_type(made, virtdisk.VirtualDisk)
made.resize(1 << 30, progress=lambda current, completion: None)
made.metadata[uuid.uuid4()] = b"value"
assert_type(made.metadata[uuid.uuid4()], bytes)
virtdisk.convert("a.vhd", pathlib.Path("a.raw"), source_type="raw")
assert_type(virtdisk.chain("a.vhd"), tuple[virtdisk.ChainLink, ...])
assert_type(virtdisk.dependencies("/"), list[virtdisk.StorageDependency])

async def work() -> None:
    async with virtdisk.aio.create("c.vhdx", 1 << 30) as disk:
        assert_type(disk, virtdisk.aio.VirtualDisk)
        operation = disk.compact()
        async for progress in operation.progress():
            assert_type(progress, virtdisk.Progress)
            assert_type(progress.fraction, float)
        assert_type(await operation, None)
    assert_type(await virtdisk.aio.attach("a.vhd"), virtdisk.aio.VirtualDisk)

try:
    virtdisk.detach("a.vhd")
except virtdisk.SharingViolationError as error:
    assert_type(error.winerror, int)
    assert_type(error.name, str | None)
    assert_type(error.remedy, str | None)
    permission: PermissionError = error
"""

# Each line is one mistake.
WRONG = """
import virtdisk
virtdisk.attach(b"a.vhd")
virtdisk.attach("a.vhd", True)
virtdisk.attach("a.vhd", readonly=True)
virtdisk.attach("a.vhd", security=5)
virtdisk.attach("a.vhd", restricted_range=512)
virtdisk.open("a.vhd", storage_type="vhd")
virtdisk.open(None)
virtdisk.detach()
virtdisk.attached()[0].path = "b.vhd"
virtdisk.AttachFlag.READONLY
virtdisk.create("a.vhd", "64GiB")
virtdisk.create("a.vhd", 1, type="thin")
virtdisk.create("a.vhd", 1, id="one")
virtdisk.create("a.vhd", 1, progress=5)
virtdisk.convert("a.vhd")
virtdisk.open("a.vhd").resize("1GiB")
virtdisk.open("a.vhd").metadata["one"]
virtdisk.open("a.vhd").mirror()
virtdisk.aio.compact("a.vhd")
virtdisk.nothing
"""


def mypy(source: str, directory: pathlib.Path) -> list[str]:
    """Checks a program against the installed package; the complaints."""
    if importlib.util.find_spec("mypy") is None:
        missing("mypy is not installed (PyPI)")
    program = directory / "program.py"
    program.write_text(source)
    done = subprocess.run(
        [
            sys.executable,
            *("-P", "-m", "mypy", "--strict", "--no-error-summary"),
            *("--cache-dir", directory / "cache"),
            program,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=directory,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if "program.py" in line]


def test_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    assert (PACKAGE / "_virtdisk.pyi").exists()


def test_right_use_is_accepted(tmp_path: pathlib.Path) -> None:
    assert mypy(RIGHT, tmp_path) == []


def test_every_wrong_use_is_refused(tmp_path: pathlib.Path) -> None:
    complaints = {
        int(line.split(":")[1]) for line in mypy(WRONG, tmp_path) if "error:" in line
    }
    mistakes = range(3, len(WRONG.splitlines()) + 1)
    assert complaints == set(mistakes)


def matches(value: object, annotation: object) -> bool:
    """Whether a value has the type that an annotation names."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, arm) for arm in typing.get_args(annotation))
    if origin is tuple:
        (item, dots) = typing.get_args(annotation)
        assert dots is ...
        return isinstance(value, tuple) and all(matches(v, item) for v in value)
    assert isinstance(annotation, type)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


def wrong_fields(value: typing.Any) -> list[str]:
    """The fields of a dataclass whose values have other types."""
    hints = typing.get_type_hints(type(value), vars(_info))
    names = [field.name for field in dataclasses.fields(value)]
    return [name for name in names if not matches(getattr(value, name), hints[name])]


@pytest.mark.parametrize("make", [make_vhd, make_iso])
def test_info_has_the_types_it_says(make: typing.Any, tmp_path: pathlib.Path) -> None:
    with virtdisk.open(make(tmp_path / "image")) as disk:
        info = disk.info
    assert wrong_fields(info) == []
    assert info.physical_disk is not None
    assert wrong_fields(info.physical_disk) == []


def test_the_check_can_fail(tmp_path: pathlib.Path) -> None:
    with virtdisk.open(make_vhd(tmp_path / "a.vhd")) as disk:
        wrong: dict[str, typing.Any] = {"virtual_size": True, "is_loaded": 7}
        info = dataclasses.replace(disk.info, **wrong)
    assert wrong_fields(info) == ["virtual_size", "is_loaded"]
