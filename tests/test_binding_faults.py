"""What holds for all functions alike, over the double of the API: codes, closing
meanwhile, leaks, no memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import struct
import subprocess
import sys

import pytest
from binding_calls import (
    ALL_CALLS,
    BY_PATH,
    CALLS,
    EVERY_MEMBER,
    MISUSE,
    NAMES,
    STARTED,
    Call,
    Case,
    answer,
    ident,
    started,
    subject,
)
from binding_double import (
    CLOSE,
    CONVERT,
    SUCCESS,
    Double,
)
from engine_build import TIMEOUT
from support import LINUX, ROOT

from virtdisk._errors import VirtualDiskError

pytestmark = pytest.mark.skipif(not LINUX, reason="the double is for Linux")

# All functions alike.


@pytest.mark.parametrize("code", [2, 32, 1314, 0xC03A0014, 0xFFFFFFFF])
@pytest.mark.parametrize(("name", "number", "call"), ALL_CALLS)
def test_codes_become_errors(
    double: Double, name: str, number: int, call: Call, code: int
) -> None:
    handle = double.api.OpenVirtualDisk("the image")
    double.answer(number, code)
    with pytest.raises(VirtualDiskError) as caught:
        call(double.api, handle)
    assert caught.value.winerror == code
    assert caught.value.function == name
    assert caught.value.filename == "the image"


@pytest.mark.parametrize(("name", "number", "call"), CALLS, ids=NAMES)
def test_close_while_another_thread_is_inside(
    double: Double, name: str, number: int, call: Call
) -> None:
    handle = double.api.OpenVirtualDisk("x")
    with double.inside_of(number, lambda: call(double.api, handle)) as raised:
        handle.close()
        assert double.calls(CLOSE) == 0
        with pytest.raises(ValueError, match="closed"):
            call(double.api, handle)
    assert raised == []
    assert double.calls(CLOSE) == 1
    assert double.calls(number) == 1


@pytest.mark.parametrize(
    ("name", "number", "call"),
    [*BY_PATH, ("SDDL", CONVERT,
                lambda d, _: d.CreateVirtualDisk("x", security_descriptor="D:"))],
)  # fmt: skip
def test_gil_is_released(double: Double, name: str, number: int, call: Call) -> None:
    """This thread goes on while the other is held inside the call."""
    double.output(answer([]))
    with double.inside_of(number, lambda: call(double.api, None)) as raised:
        assert raised == []
    assert raised == []


class Mallinfo2(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = (
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    )


def allocated() -> int:
    """The bytes that malloc() has given out."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        pytest.skip("mallinfo2() came with glibc 2.33")
    library.mallinfo2.restype = Mallinfo2
    found = library.mallinfo2()
    return int(found.uordblks) + int(found.hblkhd)


@pytest.mark.parametrize("code", [SUCCESS, 5])
@pytest.mark.parametrize(("name", "number", "call"), ALL_CALLS)
def test_no_leak(double: Double, name: str, number: int, call: Call, code: int) -> None:
    """Of what is allocated for a call nothing stays, however it ends."""
    double.output(answer([]))
    handle = double.api.OpenVirtualDisk("the image")
    double.answer(number, code)

    def repeat(count: int) -> None:
        for _ in range(count):
            try:
                call(double.api, handle)
            except PermissionError:
                assert code != SUCCESS
        gc.collect()

    repeat(50)
    before = allocated()
    repeat(200)
    assert allocated() - before < 3200  # less than 16 bytes a call


@pytest.mark.parametrize(("name", "positional", "keywords", "kind", "text"), MISUSE)
def test_no_leak_when_refused(
    double: Double,
    name: str,
    positional: tuple[object, ...],
    keywords: dict[str, object],
    kind: type[Exception],
    text: str,
) -> None:
    first = subject(double, name)
    function = getattr(double.api, name)

    def repeat(count: int) -> None:
        for _ in range(count):
            with contextlib.suppress(kind):
                function(first, *positional, **keywords)
        gc.collect()

    repeat(50)
    before = allocated()
    repeat(200)
    assert allocated() - before < 3200


@pytest.mark.parametrize("case", STARTED, ids=ident)
def test_no_leak_of_operations(double: Double, case: Case) -> None:
    def repeat(count: int) -> None:
        for _ in range(count):
            overlapped = started(double, case)
            double.complete(SUCCESS)
            assert overlapped.result() is None
            del overlapped
        gc.collect()

    repeat(50)
    before = allocated()
    repeat(200)
    assert allocated() - before < 3200


# Without memory.

DESCRIPTOR_BYTES = struct.pack("<BBHIIII", 1, 0, 0x8000, 0, 0, 0, 0)
# Their arguments fit on the stack: nothing keeps them after the call.
NOTHING_ALLOCATED = {
    *("BreakMirrorVirtualDisk", "CompleteForkVirtualDisk", "DeleteVirtualDiskMetadata"),
    *("TakeSnapshotVhdSet", "DeleteSnapshotVhdSet", "ApplySnapshotVhdSet"),
    "RawSCSIVirtualDisk",
}
ALLOCATING: list[tuple[str, Call]] = [
    ("Overlapped", lambda d, _: d.Overlapped()),
    ("OpenVirtualDisk", lambda d, _: d.OpenVirtualDisk("x", version=3)),
    ("CreateVirtualDisk, SDDL",
     lambda d, _: d.CreateVirtualDisk("x", security_descriptor="D:", **EVERY_MEMBER)),
    ("CreateVirtualDisk, bytes",
     lambda d, _: d.CreateVirtualDisk("x", security_descriptor=DESCRIPTOR_BYTES)),
    ("AttachVirtualDisk",
     lambda d, h: d.AttachVirtualDisk(h, version=2, security_descriptor="D:")),
    ("AddVirtualDiskParent", lambda d, h: d.AddVirtualDiskParent(h, "parent")),
    ("GetVirtualDiskPhysicalPath", lambda d, h: d.GetVirtualDiskPhysicalPath(h)),
    ("GetVirtualDiskInformation", lambda d, h: d.GetVirtualDiskInformation(h, 3)),
    ("GetAllAttachedVirtualDiskPhysicalPaths",
     lambda d, _: d.GetAllAttachedVirtualDiskPhysicalPaths()),
    ("RawSCSIVirtualDisk", lambda d, h: d.RawSCSIVirtualDisk(h, b"0")),
    *((name, call) for name, _, call in ALL_CALLS if name != "CreateFileW"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "call"), ALLOCATING, ids=[name for name, _ in ALLOCATING]
)
def test_every_allocation_fails_once(double: Double, name: str, call: Call) -> None:
    """MemoryError, or the system's code for it; and nothing is left behind."""
    double.output(answer([], bytes(300)))
    handle = double.api.OpenVirtualDisk("the image")
    failures = 0
    codes = set()
    while failures < 50:
        disks = double.disks_open(), double.events_open()
        double.allocations(failures)
        try:
            call(double.api, handle)
        except MemoryError:
            pass
        except VirtualDiskError as error:
            codes.add(error.winerror)
        else:
            break
        finally:
            double.allocations(-1)
        if (double.disks_open(), double.events_open()) != disks:
            gc.collect()
        assert (double.disks_open(), double.events_open()) == disks
        failures += 1
    assert failures < 50
    assert codes <= {8}  # ERROR_NOT_ENOUGH_MEMORY
    assert (failures > 0) == (name not in NOTHING_ALLOCATED)
    call(double.api, handle)


WITHOUT_PYTHON_MEMORY = """
import sys
sys.path[:0] = [{tests!r}, {library!r}]
import gc, pathlib, _testcapi
import binding_double as t
import binding_calls, test_binding_faults as calls
d = t.Double(t.load(pathlib.Path({module!r})))
d.reset()
d.output(binding_calls.answer([], bytes(300)))
handle = d.api.OpenVirtualDisk("the image")
for name, call in calls.ALLOCATING:
    call(d.api, handle)  # what is made once is made
    failed = 0
    for n in range(40):
        disks = d.disks_open(), d.events_open()
        _testcapi.set_nomemory(n, n + 1)
        try:
            call(d.api, handle)
        except MemoryError:
            failed += 1
        finally:
            _testcapi.remove_mem_hooks()
        if (d.disks_open(), d.events_open()) != disks:
            gc.collect()
        assert (d.disks_open(), d.events_open()) == disks, (name, n)
    print(name, failed)
"""


def test_every_allocation_of_python_fails_once(built: Double) -> None:
    """One after the other: MemoryError or success, never a crash or a leak."""
    pytest.importorskip("_testcapi", reason="a Python without its own tests")
    program = WITHOUT_PYTHON_MEMORY.format(
        tests=str(ROOT / "tests"),
        library=str(ROOT / "tests/lib"),
        module=built.api.__file__,
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    failed = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert set(failed) == {name for name, _ in ALLOCATING}
    # What these give is empty: it is there already, or comes from a free list.
    assert {name for name, count in failed.items() if count == "0"} <= {
        "GetVirtualDiskPhysicalPath",
        "GetAllAttachedVirtualDiskPhysicalPaths",
        "GetVirtualDiskInformation",
    }
