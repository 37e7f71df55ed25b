"""Under Wine's own virtdisk.dll: clear errors, and the process lives on.

Wine's DLL implements next to nothing: most of its functions end the process
when they are called.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest
from calls import CALLS, FREE, NEWER, OBJECT, PROGRESS

import virtdisk
from virtdisk import _virtdisk

# In Wine's DLL but not to be called.
STUBS = ["CreateVirtualDisk", "GetAllAttachedVirtualDiskPhysicalPaths"]


def test_the_dll_is_wine_s() -> None:
    dll = ctypes.WinDLL("virtdisk.dll")
    assert not hasattr(dll, "double_answer")
    assert hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")


def test_open_is_not_implemented() -> None:
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        _virtdisk.OpenVirtualDisk("C:\\disk.vhd", access_mask=0x80000)
    assert caught.value.winerror == 120
    assert caught.value.name == "ERROR_CALL_NOT_IMPLEMENTED"
    assert caught.value.filename == "C:\\disk.vhd"


@pytest.mark.parametrize("function", STUBS)
def test_what_would_end_the_process_is_refused(function: str) -> None:
    with pytest.raises(NotImplementedError, match=f"Wine.*{function}"):
        FREE[function]()


def test_dependencies_are_none() -> None:
    # Wine's answers, with no entries.
    assert _virtdisk.GetStorageDependencyInformation(OBJECT) == []


@pytest.mark.parametrize("function", sorted([*CALLS, PROGRESS]))
def test_no_function_of_a_disk_ends_the_process(function: str) -> None:
    # There can be no handle, since nothing can be opened.
    call: Any = getattr(_virtdisk, function)
    with pytest.raises((TypeError, NotImplementedError)):
        call(None)
    with pytest.raises((TypeError, NotImplementedError)):
        CALLS.get(function, call)(None)


@pytest.mark.parametrize("function", NEWER)
def test_what_a_system_is_too_old_for(function: str) -> None:
    """Not exported: the module is loaded all the same."""
    assert not hasattr(ctypes.WinDLL("virtdisk.dll"), function)


def test_the_age_is_said() -> None:
    """Of the others a Handle is the first thing to be missed."""
    call: Any = _virtdisk.RawSCSIVirtualDisk
    with pytest.raises(NotImplementedError, match=NEWER["RawSCSIVirtualDisk"]):
        call(None, b"")


def test_facade() -> None:
    with pytest.raises(NotImplementedError, match="Wine"):
        virtdisk.attached()
    with pytest.raises((virtdisk.VirtualDiskError, NotImplementedError)):
        virtdisk.open("C:\\disk.vhd")


def test_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "virtdisk", "list"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Wine" in done.stderr
    assert "Traceback" not in done.stderr
