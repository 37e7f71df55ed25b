"""The exact calls of virtdisk.h: flat arguments in, plain values out.

Every function releases the GIL during the system call, raises the exception
made by ``virtdisk._errors.error_from_code`` when the call does not return
ERROR_SUCCESS, and ``ValueError`` for a closed handle.
"""

from typing import Final, final

from typing_extensions import Buffer

@final
class Handle:
    """A HANDLE to a virtual disk, closed by close(), by the end of a ``with``
    block or when it is dropped.  A handle closed while another thread is
    inside a call is closed when that call returns."""

    @property
    def closed(self) -> bool: ...
    @property
    def path(self) -> str: ...
    @property
    def value(self) -> int: ...
    def close(self) -> None: ...
    def __enter__(self) -> Handle: ...
    def __exit__(self, *args: object) -> None: ...

@final
class Overlapped:
    """An OVERLAPPED with its event, for one asynchronous call at a time."""

    def __new__(cls) -> Overlapped: ...
    @property
    def pending(self) -> bool: ...
    @property
    def event(self) -> int: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def result(self) -> None: ...
    def progress(self) -> tuple[int, int, int]: ...
    def cancel(self) -> None: ...

def OpenVirtualDisk(
    path: str,
    *,
    device_id: int = 0,
    vendor_id: Buffer | None = None,
    access_mask: int = 0,
    flags: int = 0,
    version: int | None = 1,
    rw_depth: int = 1,
    get_info_only: bool = False,
    read_only: bool = False,
    resiliency_guid: Buffer | None = None,
    snapshot_id: Buffer | None = None,
) -> Handle: ...
def AttachVirtualDisk(
    handle: Handle,
    *,
    security_descriptor: str | Buffer | None = None,
    flags: int = 0,
    provider_specific_flags: int = 0,
    version: int | None = 1,
    restricted_offset: int = 0,
    restricted_length: int = 0,
    overlapped: Overlapped | None = None,
) -> None: ...
def DetachVirtualDisk(
    handle: Handle, *, flags: int = 0, provider_specific_flags: int = 0
) -> None: ...
def GetVirtualDiskPhysicalPath(handle: Handle) -> str: ...
def GetAllAttachedVirtualDiskPhysicalPaths() -> list[str]: ...
def GetVirtualDiskInformation(
    handle: Handle, version: int
) -> (
    int
    | bool
    | bytes
    | tuple[int, int, int, int]
    | tuple[bool, list[str]]
    | tuple[int, bytes]
    | tuple[int, int, bool]
    | tuple[bool, bool, str]
): ...

# Every constant of virtdisk.h stands here under its own name; see the end of
# this file.
