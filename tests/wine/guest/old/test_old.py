"""Under a virtdisk.dll of Windows 8: what it lacks is said, the rest works."""

from __future__ import annotations

from typing import Any

import oracle
import pytest
from calls import CALLS, FREE, NEWER, PROGRESS, STARTS, Call, Free
from recorder import DLL, Recorder

import virtdisk
from virtdisk import _virtdisk

OLD_CALLS = {name: call for name, call in CALLS.items() if name not in NEWER}
# What a query needs to come back with something.
ANSWERS = {
    "GetVirtualDiskInformation": oracle.pack("GET_VIRTUAL_DISK_INFO", {"Version": 1}),
    "GetVirtualDiskPhysicalPath": b"p\0\0\0",
    "GetAllAttachedVirtualDiskPhysicalPaths": bytes(2),
    "GetStorageDependencyInformation": b"\2" + bytes(7),
}


@pytest.fixture
def double() -> Recorder:
    """The double of an old system, without answers and calls."""
    recorder = Recorder()
    for function, data in ANSWERS.items():
        recorder.answer(function, data=data)
    return recorder


def test_the_dll_is_an_old_one() -> None:
    exported = {name for name in oracle.PARAMETERS if hasattr(DLL, name)}
    assert exported == oracle.PARAMETERS.keys() - NEWER.keys()
    assert len(exported) == 21


@pytest.mark.parametrize(("function", "needs"), NEWER.items())
def test_what_the_system_is_too_old_for(
    double: Recorder, function: str, needs: str
) -> None:
    disk = _virtdisk.OpenVirtualDisk("C:\\disk.vhdx")
    with pytest.raises(NotImplementedError) as caught:
        CALLS[function](disk)
    disk.close()
    assert function in str(caught.value)
    assert needs in str(caught.value)
    assert double.names() == ["OpenVirtualDisk"]


@pytest.mark.parametrize(("function", "call"), OLD_CALLS.items())
def test_the_functions_of_a_disk_work(
    double: Recorder, function: str, call: Call
) -> None:
    with _virtdisk.OpenVirtualDisk("C:\\disk.vhdx") as disk:
        call(disk)
    assert double.names() == ["OpenVirtualDisk", function]


@pytest.mark.parametrize(("function", "call"), FREE.items())
def test_the_other_functions_work(double: Recorder, function: str, call: Free) -> None:
    call()
    assert double.names() == [function]


def test_operations_work(double: Recorder) -> None:
    with _virtdisk.OpenVirtualDisk("C:\\disk.vhdx") as disk:
        for function in STARTS.keys() - NEWER.keys():
            double.answer(function, pending=1)
            overlapped = _virtdisk.Overlapped()
            STARTS[function](disk, overlapped)
            assert overlapped.progress() == (997, 0, 100)
            double.complete(disk.value)
            assert overlapped.wait(60)
            overlapped.result()
    assert double.calls(PROGRESS)


def test_the_facade_works(double: Recorder, tmp_path: Any) -> None:
    image = tmp_path / "image.vhdx"
    image.write_bytes(b"vhdxfile".ljust(65536, b"\0"))
    with virtdisk.attach(image, read_only=True) as disk:
        assert disk.physical_path == "p"
    assert virtdisk.attached() == []
