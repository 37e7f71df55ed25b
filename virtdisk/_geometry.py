"""The sizes that a VHD or VHDX can have.

Only what holds on both systems, whatever image it is: so that a size that
cannot be is refused with the reason, before anything is asked of the system.

Source: CREATE_VIRTUAL_DISK_PARAMETERS; [MS-VHDX] 2.6.2; "Virtual Hard Disk
Image Format Specification" 1.0.
"""

from __future__ import annotations

from typing import Final

from virtdisk._arguments import check_integer
from virtdisk._flags import StorageType

__all__ = ["SMALLEST", "check_geometry"]

_MIB: Final = 1 << 20
#: Of a disk, in bytes.
SMALLEST: Final = 3 * _MIB
_VHDX_LARGEST: Final = 64 << 40
_Choices = tuple[int, ...]
_BLOCKS: Final[dict[StorageType, _Choices]] = {
    StorageType.VHD: (512 << 10, 2 * _MIB),
    StorageType.VHDX: tuple(_MIB << power for power in range(9)),
}
_SECTORS: Final[dict[StorageType, _Choices]] = {
    StorageType.VHD: (512,),
    StorageType.VHDX: (512, 4096),
}


def _check_one_of(name: str, value: int | None, choices: _Choices | None) -> int:
    """0 for None, or one of the values that can be, if these are known."""
    if value is None:
        return 0
    check_integer(value, name, 32)
    if choices is not None and value not in choices:
        words = ", ".join(str(choice) for choice in choices)
        msg = f"{name} is {value}; it must be one of {words} (bytes)"
        raise ValueError(msg)
    return int(value)


def _check_size(size: int | None, storage_type: StorageType, sector_size: int) -> int:
    """0 for None, or a size in whole sectors that the format can have."""
    if size is None:
        return 0
    if check_integer(size, "size", 64) < SMALLEST:
        msg = f"size is {size}; it must be at least 3 MiB ({SMALLEST} bytes)"
        raise ValueError(msg)
    if size % sector_size != 0:
        msg = f"size is {size}; it must be a multiple of {sector_size} bytes"
        raise ValueError(msg)
    if storage_type is StorageType.VHDX and size > _VHDX_LARGEST:
        msg = f"size is {size}; a VHDX has at most 64 TiB ({_VHDX_LARGEST} bytes)"
        raise ValueError(msg)
    return int(size)


def check_geometry(
    storage_type: StorageType,
    size: int | None,
    block_size: int | None,
    sector_size: int | None,
    physical_sector_size: int | None,
) -> dict[str, int]:
    """Checks the sizes of an image that is to be made.

    Args:
        storage_type: VHD or VHDX; of anything else nothing is known here.
        size: Of the disk, in bytes, or None.
        block_size: In bytes, or None.
        sector_size: Logical, in bytes, or None.
        physical_sector_size: In bytes, or None.

    Returns:
        The members of CREATE_VIRTUAL_DISK_PARAMETERS; 0 for None.

    Raises:
        TypeError: Not an int.
        ValueError: No such image can be.

    Source: CREATE_VIRTUAL_DISK_PARAMETERS.
    """
    sectors = _SECTORS.get(storage_type)
    logical = _check_one_of("sector_size", sector_size, sectors)
    return {
        "maximum_size": _check_size(size, storage_type, logical or 512),
        "block_size_in_bytes": _check_one_of(
            "block_size", block_size, _BLOCKS.get(storage_type)
        ),
        "sector_size_in_bytes": logical,
        "physical_sector_size_in_bytes": _check_one_of(
            "physical_sector_size", physical_sector_size, sectors
        ),
    }
