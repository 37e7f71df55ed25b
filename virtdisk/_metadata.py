"""The metadata that users keep in a VHDX, as a mapping.

Source: EnumerateVirtualDiskMetadata, GetVirtualDiskMetadata,
SetVirtualDiskMetadata and DeleteVirtualDiskMetadata of virtdisk.h; [MS-VHDX]
2.6.1.2, items with IsUser set.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Final

from virtdisk import _virtdisk
from virtdisk._errors import VirtualDiskError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Metadata"]

_ABSENT: Final = frozenset({2, 1168})  # ERROR_FILE_NOT_FOUND, ERROR_NOT_FOUND


def _key(item: object) -> bytes:
    """An item's GUID as it lies in memory."""
    if not isinstance(item, uuid.UUID):
        kind = type(item).__name__
        msg = f"a metadata item is named by a uuid.UUID, not {kind}"
        raise TypeError(msg)
    return item.bytes_le


class Metadata(MutableMapping[uuid.UUID, bytes]):
    """The user metadata of an open VHDX: items of bytes, named by UUIDs.

    Each access asks the system; nothing is kept here.  An item is at most
    1 MiB, and there are at most 1024 of them.  Only a disk that is not
    attached can be changed.

    Raises:
        KeyError: There is no such item.
        TypeError: A key that is no ``uuid.UUID``, a value that is not bytes.
        ValueError: The disk is closed.
        VirtualDiskError: 0xC03A0028 if the item does not fit, 87 for the
            UUID of zeros, 50 or 0xC03A001B if the image is no VHDX; of
            changes, 5 if it was opened for reading only, 32 or 0xC03A001C
            while it is attached.

    Source: EnumerateVirtualDiskMetadata and the other three functions.
    """

    def __init__(self, handle: _virtdisk.Handle) -> None:
        """Looks through a handle, which stays its owner's."""
        self._handle = handle

    def __getitem__(self, item: uuid.UUID) -> bytes:
        key = _key(item)
        try:
            return _virtdisk.GetVirtualDiskMetadata(self._handle, key)
        except VirtualDiskError as error:
            if error.winerror in _ABSENT:
                raise KeyError(item) from None
            raise

    def __setitem__(self, item: uuid.UUID, value: Buffer) -> None:
        _virtdisk.SetVirtualDiskMetadata(self._handle, _key(item), value)

    def __delitem__(self, item: uuid.UUID) -> None:
        key = _key(item)
        try:
            _virtdisk.DeleteVirtualDiskMetadata(self._handle, key)
        except VirtualDiskError as error:
            if error.winerror in _ABSENT:
                raise KeyError(item) from None
            raise

    def _items(self) -> list[uuid.UUID]:
        items = _virtdisk.EnumerateVirtualDiskMetadata(self._handle)
        return [uuid.UUID(bytes_le=item) for item in items]

    def __iter__(self) -> Iterator[uuid.UUID]:
        return iter(self._items())

    def __len__(self) -> int:
        return len(self._items())

    def __contains__(self, item: object) -> bool:
        return isinstance(item, uuid.UUID) and item in self._items()

    def __repr__(self) -> str:
        try:
            state = "closed" if self._handle.closed else f"{len(self)} items"
        except VirtualDiskError:
            state = "not to be had"
        return f"<metadata of {self._handle.path!r}, {state}>"
