r"""Virtual disks: open a VHD, VHDX or ISO image and attach it as a disk.

    import virtdisk

    with virtdisk.attach("disk.vhd", read_only=True) as disk:
        print(disk.physical_path)          # /dev/loop0, \\.\PhysicalDrive1
        with disk.raw() as file:
            first_sector = file.read(512)

``attach`` and ``open`` give a ``VirtualDisk``, ``detach`` takes a path, and
``attached`` lists what is attached on this system.  Failures of the system
are ``VirtualDiskError`` with the Win32 code, its name and a remedy.  The
functions of virtdisk.h themselves are in ``virtdisk._virtdisk``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from virtdisk._chain import ChainLink, StorageDependency, chain, dependencies
from virtdisk._convert import convert
from virtdisk._create import create
from virtdisk._disk import (
    AttachedImage,
    VirtualDisk,
    attach,
    attached,
    detach,
    open,  # noqa: A004 - as gzip.open
)
from virtdisk._errors import (
    AccessDeniedError,
    ImageCorruptError,
    ImageExistsError,
    ImageNotFoundError,
    OperationIncompleteError,
    OperationTimeoutError,
    PrivilegeNotHeldError,
    SharingViolationError,
    VirtualDiskError,
    error_from_code,
)
from virtdisk._flags import (
    AccessMask,
    AttachFlag,
    CompactFlag,
    CreateFlag,
    DependentDiskFlag,
    DetachFlag,
    MirrorFlag,
    OpenFlag,
    ProviderSubtype,
    ResizeFlag,
    StorageType,
)
from virtdisk._info import (
    ChangeTrackingInfo,
    ParentInfo,
    PhysicalDiskInfo,
    VirtualDiskInfo,
)
from virtdisk._metadata import Metadata
from virtdisk._operation import Progress

if TYPE_CHECKING:
    from virtdisk import aio

__all__ = [
    "AccessDeniedError",
    "AccessMask",
    "AttachFlag",
    "AttachedImage",
    "ChainLink",
    "ChangeTrackingInfo",
    "CompactFlag",
    "CreateFlag",
    "DependentDiskFlag",
    "DetachFlag",
    "GiB",
    "ImageCorruptError",
    "ImageExistsError",
    "ImageNotFoundError",
    "KiB",
    "Metadata",
    "MiB",
    "MirrorFlag",
    "OpenFlag",
    "OperationIncompleteError",
    "OperationTimeoutError",
    "ParentInfo",
    "PhysicalDiskInfo",
    "PrivilegeNotHeldError",
    "Progress",
    "ProviderSubtype",
    "ResizeFlag",
    "SharingViolationError",
    "StorageDependency",
    "StorageType",
    "TiB",
    "VirtualDisk",
    "VirtualDiskError",
    "VirtualDiskInfo",
    "__version__",
    "aio",
    "attach",
    "attached",
    "chain",
    "convert",
    "create",
    "dependencies",
    "detach",
    "error_from_code",
    "open",
]

__version__: Final = "0.1.0"

# Bytes.
KiB: Final = 1 << 10
MiB: Final = 1 << 20
GiB: Final = 1 << 30
TiB: Final = 1 << 40


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # Only who uses it shall pay for the import of asyncio.
        if name == "aio":
            return importlib.import_module("virtdisk.aio")
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
