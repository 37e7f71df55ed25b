"""Which parameters of OpenVirtualDisk suit an image.

* The type of an image is judged by its content (_storage.py) and named to the
  system, because Windows on its own goes by the file's extension.
* VHD and VHDX are opened with parameters version 2, without an access mask
  and with a fresh resiliency GUID; ISO with version 1, a mask for reading and
  a depth of 0.
* To detach, an image is opened with default parameters and a mask for just
  that: version 2 with a mask is refused by Windows, and version 2 without one
  asks for more than is needed.

Source: OpenVirtualDisk, OPEN_VIRTUAL_DISK_PARAMETERS.
"""

from __future__ import annotations

import uuid
from typing import Final

from virtdisk import _virtdisk, _volumes
from virtdisk._arguments import WINDOWS
from virtdisk._errors import VirtualDiskError
from virtdisk._flags import AccessMask, OpenFlag
from virtdisk._storage import is_optical, storage_type_of

__all__ = [
    "MICROSOFT_VENDOR",
    "device_of",
    "open_for_detach",
    "open_handle",
    "vendor_of",
    "who_holds",
]

MICROSOFT_VENDOR: Final = uuid.UUID("ec984aec-a0f9-47e9-901f-71415a66345b")


def vendor_of(device_id: int) -> bytes | None:
    """The vendor to name with a type.

    Args:
        device_id: Of VIRTUAL_STORAGE_TYPE.

    Returns:
        The GUID in memory order; None if the type is left open.

    Source: VIRTUAL_STORAGE_TYPE_VENDOR_MICROSOFT.
    """
    return MICROSOFT_VENDOR.bytes_le if device_id else None


def open_handle(
    path: str,
    device_id: int,
    *,
    access: AccessMask | int | None = None,
    read_only: bool = False,
    info_only: bool = False,
    flags: OpenFlag | int = OpenFlag.NONE,
) -> _virtdisk.Handle:
    """Opens an image with the parameters that suit it.

    Args:
        path: The image, absolute.
        device_id: Its type, from ``storage_type_of``.
        access: A mask, which asks for version 1; None: what suits the image.
        read_only: Whether the file is opened for reading only.
        info_only: Whether the handle only answers questions.
        flags: Of ``OpenFlag``.

    Returns:
        The handle.

    Raises:
        VirtualDiskError: What OpenVirtualDisk answers.

    Source: OpenVirtualDisk.
    """
    vendor = vendor_of(device_id)
    optical = is_optical(path, device_id)
    if access is None and not optical:
        return _virtdisk.OpenVirtualDisk(
            path,
            device_id=device_id,
            vendor_id=vendor,
            flags=int(flags),
            version=2,
            get_info_only=info_only,
            read_only=read_only,
            resiliency_guid=uuid.uuid4().bytes_le,
        )
    if access is None:
        access = AccessMask.GET_INFO if info_only else AccessMask.READ
    return _virtdisk.OpenVirtualDisk(
        path,
        device_id=device_id,
        vendor_id=vendor,
        access_mask=int(access),
        flags=int(flags),
        version=1,
        rw_depth=0 if read_only or optical else 1,
    )


def open_for_detach(path: str) -> _virtdisk.Handle:
    """Opens a handle that may only detach and ask, whatever the image's state.

    Parents are left alone: a broken chain must not keep a disk attached.

    Args:
        path: The image, absolute.

    Returns:
        The handle.

    Raises:
        VirtualDiskError: What OpenVirtualDisk answers.

    Source: OpenVirtualDisk; DetachVirtualDisk, access DETACH.
    """
    device_id = storage_type_of(path, None)
    optical = is_optical(path, device_id)
    return _virtdisk.OpenVirtualDisk(
        path,
        device_id=device_id,
        vendor_id=vendor_of(device_id),
        access_mask=int(AccessMask.DETACH | AccessMask.GET_INFO),
        flags=0 if optical else int(OpenFlag.NO_PARENTS),
        version=None,
    )


def device_of(path: str) -> str | None:
    """Finds the device of an attached image.

    Args:
        path: The image, absolute.

    Returns:
        The device, or None if it cannot be learned.  Raises nothing.

    Source: GetVirtualDiskPhysicalPath.
    """
    try:
        with open_handle(path, storage_type_of(path, None), info_only=True) as handle:
            return _virtdisk.GetVirtualDiskPhysicalPath(handle)
    except VirtualDiskError:
        return None


def who_holds(path: str) -> str | None:
    """Finds out who uses an image.

    Args:
        path: The image, absolute.

    Returns:
        A remedy that names its device or processes; None if nobody can be
        seen.  Raises nothing.

    Source: GetVirtualDiskPhysicalPath; /proc/PID/fd.
    """
    device = device_of(path)
    if device is not None:
        return f"it is attached as {device}: use that disk, or detach it first"
    return None if WINDOWS else _volumes.describe_holders(path)
