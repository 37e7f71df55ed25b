"""Under Wine's own virtdisk.dll: clear errors, and the process lives on.

Wine's DLL implements next to nothing: most of its functions end the process
when they are called.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable

import pytest

import virtdisk
from virtdisk import _virtdisk

# In Wine's DLL but not to be called, and how Python would call them.
CALLS = {
    "GetAllAttachedVirtualDiskPhysicalPaths": (
        _virtdisk.GetAllAttachedVirtualDiskPhysicalPaths
    ),
}


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


@pytest.mark.parametrize("function", sorted(CALLS))
def test_what_would_end_the_process_is_refused(function: str) -> None:
    call: Callable[[], object] = CALLS[function]
    with pytest.raises(NotImplementedError, match=f"Wine.*{function}"):
        call()


def test_what_a_system_is_too_old_for() -> None:
    """Not exported: the module is loaded all the same, and says why."""
    assert not hasattr(ctypes.WinDLL("virtdisk.dll"), "RawSCSIVirtualDisk")
    call: Callable[..., object] = _virtdisk.RawSCSIVirtualDisk
    with pytest.raises(NotImplementedError, match="Windows 10 or Windows Server 2016"):
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
