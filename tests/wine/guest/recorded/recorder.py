"""Speaking to the recording virtdisk.dll."""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import sys
from typing import Any, Final

assert sys.platform == "win32"

DLL: Final = ctypes.WinDLL("virtdisk.dll")
KERNEL32: Final = ctypes.WinDLL("kernel32", use_last_error=True)
LOG: Final = pathlib.Path(os.environ["DOUBLE_LOG"])

DLL.double_complete.argtypes = [ctypes.c_void_p]
DLL.double_complete.restype = ctypes.c_int
DLL.double_decoy.restype = ctypes.c_void_p
DLL.double_is_pending.argtypes = [ctypes.c_void_p]
DLL.double_leave.restype = None
DLL.double_answer.argtypes = [ctypes.c_char_p]
DLL.double_answer.restype = None
DLL.double_forget.restype = None
KERNEL32.GetHandleInformation.argtypes = [ctypes.c_void_p, ctypes.c_void_p]

Value = int | str | bool | bytes | None

# The calls that a test found equal to what it expected; the host looks what
# they exercise.
compared: Final[list[dict[str, Any]]] = []


def handle_is_open(handle: int) -> bool:
    """Whether the system knows the handle."""
    information = ctypes.c_uint32()
    return bool(KERNEL32.GetHandleInformation(handle, ctypes.byref(information)))


class Recorder:
    """What the double answers and what it was asked."""

    def __init__(self) -> None:
        """Forgets all answers and calls."""
        self._lines: list[str] = []
        self.forget()

    def answer(
        self, function: str, *, data: bytes | None = None, **numbers: int
    ) -> None:
        """Adds an answer, as double/script.h describes it."""
        pairs = [f"{key}={value}" for key, value in numbers.items()]
        if data is not None:
            pairs.append(f"data={data.hex()}")
        line = " ".join((function, *pairs))
        self._lines.append(line)
        DLL.double_answer(line.encode("ascii"))

    def forget(self) -> None:
        """Drops the answers and the calls until now."""
        self._lines.clear()
        DLL.double_forget()
        LOG.write_bytes(b"")

    @property
    def script(self) -> str:
        """The answers, for the environment of a child process."""
        return "\n".join(self._lines)

    def calls(self, function: str | None = None) -> list[dict[str, Any]]:
        """The calls that have returned, oldest first."""
        lines = LOG.read_text("ascii").splitlines()
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if function in {None, call["function"]}]

    def names(self) -> list[str]:
        """The functions called, oldest first."""
        return [call["function"] for call in self.calls()]

    def assert_call(
        self, call: dict[str, Any], function: str, **expected: Value
    ) -> None:
        """Every recorded field of a call is as expected, none is left out.

        Args:
            call: The record.
            function: The function's name.
            expected: By parameter name; bytes for structures.  ``result`` is
                0 unless given.
        """
        fields = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in {"result": 0, **expected}.items()
        }
        assert call == {"function": function, **fields}
        compared.append(call)

    # -- the gate and pending operations --

    def wait_entered(self) -> None:
        """Until a call with gate=1 is inside the double."""
        assert DLL.double_wait_entered(), "no call came to the gate"

    def leave(self) -> None:
        """Lets one call out of the gate."""
        DLL.double_leave()

    def complete(self, handle: int) -> None:
        """Ends the operation that is pending on a handle.

        Raises:
            AssertionError: Its parameters were not kept until now.
        """
        assert DLL.double_complete(handle), "the parameters have changed"

    def is_pending(self, handle: int) -> bool:
        """Whether the system still has a read pending on the handle."""
        return bool(DLL.double_is_pending(handle))

    @property
    def decoy(self) -> int:
        """What a failed OpenVirtualDisk leaves in *Handle."""
        return int(DLL.double_decoy())
