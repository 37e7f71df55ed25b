"""The binding over a double of the API: what a real engine cannot be made to do.

src/_virtdisk*.c is compiled with tests/binding/double.c instead of the
engine.  So every argument can be seen as the system sees it, and calls can be
held, refused and completed at will.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sysconfig
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from support import ROOT, missing, require_tool

(
    OPEN,
    ATTACH,
    DETACH,
    PHYSICAL_PATH,
    ALL_PATHS,
    INFORMATION,
    PROGRESS,
    CLOSE,
    CANCEL,
    CREATE_EVENT,
    WAIT,
    CONVERT,
    ADD_PARENT,
    RAW_SCSI,
    DESCRIPTOR,
    CREATE,
    COMPACT,
    MERGE,
    EXPAND,
    RESIZE,
    MIRROR,
    BREAK_MIRROR,
    SET_INFORMATION,
    ENUMERATE_METADATA,
    GET_METADATA,
    SET_METADATA,
    DELETE_METADATA,
    CREATE_FILE,
    DEPENDENCY,
    QUERY_CHANGES,
    TAKE_SNAPSHOT,
    DELETE_SNAPSHOT,
    MODIFY_SET,
    APPLY_SNAPSHOT,
    FORK,
    COMPLETE_FORK,
) = range(36)
NO_FUNCTION = -1
SUCCESS, INSUFFICIENT_BUFFER, PENDING, NOT_FOUND = 0, 122, 997, 1168
GUID_A = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff").bytes_le
GUID_B = uuid.UUID("ec984aec-a0f9-47e9-901f-71415a66345b").bytes_le
NO_GUID = bytes(16)


class Recorded(ctypes.Structure):
    """struct recorded of double.c."""

    _fields_ = (
        ("device_id", ctypes.c_uint32),
        ("vendor_id", ctypes.c_uint8 * 16),
        ("access_mask", ctypes.c_uint32),
        ("open_flags", ctypes.c_uint32),
        ("has_open_parameters", ctypes.c_uint32),
        ("open_parameters", ctypes.c_uint8 * 44),
        ("path", ctypes.c_uint16 * 64),
        ("attach_flags", ctypes.c_uint32),
        ("provider_specific_flags", ctypes.c_uint32),
        ("has_attach_parameters", ctypes.c_uint32),
        ("attach_parameters", ctypes.c_uint8 * 24),
        ("has_descriptor", ctypes.c_uint32),
        ("descriptor", ctypes.c_uint8 * 128),
        ("detach_flags", ctypes.c_uint32),
        ("detach_provider_flags", ctypes.c_uint32),
        ("descriptors_freed", ctypes.c_uint32),
        ("largest_query", ctypes.c_uint32),
        ("dependency_flags", ctypes.c_uint32),
        ("dependency_version", ctypes.c_uint32),
        ("parent_path", ctypes.c_uint16 * 64),
        ("scsi_version", ctypes.c_uint32),
        ("rsvd_handle", ctypes.c_uint32),
        ("data_in", ctypes.c_uint32),
        ("cdb_length", ctypes.c_uint32),
        ("sense_length", ctypes.c_uint32),
        ("srb_flags", ctypes.c_uint32),
        ("data_length", ctypes.c_uint32),
        ("scsi_flags", ctypes.c_uint32),
        ("cdb", ctypes.c_uint8 * 255),
        ("data", ctypes.c_uint8 * 64),
    )


class Given(ctypes.Structure):
    """struct given of double.c."""

    _fields_ = (
        ("numbers", ctypes.c_uint64 * 2),
        ("flags", ctypes.c_uint32),
        ("provider_specific_flags", ctypes.c_uint32),
        ("access_mask", ctypes.c_uint32),
        ("overlapped", ctypes.c_uint32),
        ("parameters_size", ctypes.c_uint32),
        ("has_descriptor", ctypes.c_uint32),
        ("texts_count", ctypes.c_uint32),
        ("storage_type", ctypes.c_uint8 * 20),
        ("parameters", ctypes.c_uint8 * 184),
        ("guid", ctypes.c_uint8 * 16),
        ("descriptor", ctypes.c_uint8 * 128),
        ("texts", (ctypes.c_uint16 * 64) * 5),
    )

    def text(self) -> list[str]:
        """The texts, in the order of their numbers."""
        found = (bytes(self.texts[n]) for n in range(self.texts_count))
        return [
            raw.decode("utf-16-le", "surrogatepass").partition("\0")[0] for raw in found
        ]


class ScsiAnswer(ctypes.Structure):
    """struct scsi_answer of double.c."""

    _fields_ = (
        ("status", ctypes.c_uint8),
        ("sense_length", ctypes.c_uint8),
        ("sense", ctypes.c_uint8 * 255),
        ("padding", ctypes.c_uint8),
        ("transferred", ctypes.c_uint32),
    )


class ProgressAnswer(ctypes.Structure):
    """struct progress_answer of double.c."""

    _fields_ = (("current", ctypes.c_uint64), ("completion", ctypes.c_uint64))


class Double:
    """The module under test, and the strings its system is moved by."""

    def __init__(self, api: ModuleType):
        self.api: Any = api
        self.library = ctypes.CDLL(api.__file__)
        self.recorded = Recorded.in_dll(self.library, "double_recorded")
        self.given = Given.in_dll(self.library, "double_given")
        self.scsi = ScsiAnswer.in_dll(self.library, "double_scsi")
        self.progress = ProgressAnswer.in_dll(self.library, "double_progress")

    def __getattr__(self, name: str) -> Callable[..., int]:
        return getattr(self.library, f"double_{name}")  # type: ignore[no-any-return]

    def answer(self, function: int, code: int) -> None:
        self.library.double_answer(function, ctypes.c_uint32(code))

    def complete(self, status: int) -> None:
        self.library.double_complete(ctypes.c_uint32(status))

    def output(self, data: bytes, growth: int = 0) -> None:
        self.library.double_output(data, len(data), growth)

    @contextlib.contextmanager
    def inside_of(
        self, function: int, call: Callable[[], object]
    ) -> Iterator[list[BaseException]]:
        """Another thread's call does not return from the function meanwhile.

        What the call raised is in the list when the block is left.
        """
        self.hold(function)
        with thread(call) as raised:
            try:
                until(self.inside)
                yield raised
            finally:
                self.hold(NO_FUNCTION)


def build(directory: pathlib.Path) -> pathlib.Path:
    """Compiles the binding with the double."""
    compiler = require_tool("gcc", package="gcc")
    include = pathlib.Path(sysconfig.get_path("include"))
    if not (include / "Python.h").exists():
        missing("no Python.h (Debian package python3-dev)")
    module = directory / "_virtdisk.so"
    stable = not sysconfig.get_config_var("Py_GIL_DISABLED")
    subprocess.run(
        [
            compiler,
            *("-std=c11", "-O1", "-g", "-fPIC", "-shared", "-pthread"),
            *("-fvisibility=hidden", "-D_GNU_SOURCE"),
            *("-fsanitize=undefined", "-fno-sanitize-recover"),
            *("-Wl,--wrap=malloc", "-Wl,--wrap=calloc"),
            *(["-DPy_LIMITED_API=0x030B0000"] if stable else []),
            *("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"),
            *("-isystem", include, "-I", ROOT / "src/engine/include"),
            *sorted((ROOT / "src").glob("_virtdisk*.c")),
            *sorted((ROOT / "tests/binding").glob("*.c")),
            *("-o", module),
        ],
        check=True,
    )
    return module


def load(path: pathlib.Path) -> ModuleType:
    """Imports the module beside the installed one."""
    loader = importlib.machinery.ExtensionFileLoader("double._virtdisk", str(path))
    spec = importlib.util.spec_from_loader("double._virtdisk", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Double:
    return Double(load(build(tmp_path_factory.mktemp("double"))))


@pytest.fixture
def double(built: Double) -> Iterator[Double]:
    """A fresh double; fails the test that leaves a handle or event open."""
    built.reset()
    disks, events = built.disks_open(), built.events_open()
    yield built
    built.allocations(-1)
    built.hold(NO_FUNCTION)
    built.complete(SUCCESS)
    if (built.disks_open(), built.events_open()) != (disks, events):
        gc.collect()  # what a test raised may hold some
    assert built.disks_open() == disks
    assert built.events_open() == events


def until(condition: Callable[[], object]) -> None:
    """Waits for what another thread is about to do."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


@contextlib.contextmanager
def thread(call: Callable[[], object]) -> Iterator[list[BaseException]]:
    """Runs a call in another thread; what it raised is in the list."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    other = threading.Thread(target=run)
    other.start()
    try:
        yield raised
    finally:
        other.join(30)
        assert not other.is_alive()


def utf16(*strings: str) -> bytes:
    return b"".join(s.encode("utf-16-le", "surrogatepass") + b"\0\0" for s in strings)


def start(double: Double, **arguments: object) -> tuple[Any, Any]:
    """An attach that is pending."""
    handle = double.api.OpenVirtualDisk("the image")
    overlapped = double.api.Overlapped()
    double.answer(ATTACH, PENDING)
    double.api.AttachVirtualDisk(handle, overlapped=overlapped, **arguments)
    double.answer(ATTACH, SUCCESS)
    return handle, overlapped
