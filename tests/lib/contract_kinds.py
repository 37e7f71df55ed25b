"""The kinds of outcome in the contract, and where a kind does not apply.

Every function of virtdisk.h has at least one row of each kind of failure, in
a Python table (contract*.py) or in the C one (tests/engine/test_api_contract.c),
or says here why it cannot have one.  tests/test_contract.py holds it.
"""

from __future__ import annotations

import enum


class Kind(enum.Enum):
    """What a call's outcome tells of."""

    SUCCESS = "success"
    #: An argument is wrong, whatever the image and its state.
    MISUSE = "misuse"
    #: The same call is right at another time: the disk is (not) attached, the
    #: file is missing, in use or damaged, what is named is (not) there.
    WRONG_STATE = "wrong state"
    #: The handle's rights or the process's do not allow it.
    MISSING_PRIVILEGE = "missing privilege"
    #: Not for an image, or an object, of this type.
    WRONG_TYPE = "wrong type"
    SMALL_BUFFER = "small buffer"


#: There is no published format for what they do.
REFUSED = {
    "QueryChangesVirtualDisk",
    "TakeSnapshotVhdSet",
    "DeleteSnapshotVhdSet",
    "ModifyVhdSet",
    "ApplySnapshotVhdSet",
    "ForkVirtualDisk",
    "CompleteForkVirtualDisk",
}

_NO_BUFFER = "takes no buffer to be filled"
_ANY_TYPE = "for an image of any type"
_REFUSED_ANYWAY = "refused for want of a format, in whatever state the image is"

NOT_APPLICABLE: dict[tuple[str, Kind], str] = {
    **{
        (function, Kind.SMALL_BUFFER): _NO_BUFFER
        for function in (
            "OpenVirtualDisk",
            "CreateVirtualDisk",
            "AttachVirtualDisk",
            "DetachVirtualDisk",
            "SetVirtualDiskInformation",
            "SetVirtualDiskMetadata",
            "DeleteVirtualDiskMetadata",
            "CompactVirtualDisk",
            "MergeVirtualDisk",
            "ExpandVirtualDisk",
            "ResizeVirtualDisk",
            "MirrorVirtualDisk",
            "BreakMirrorVirtualDisk",
            "AddVirtualDiskParent",
            *(REFUSED - {"QueryChangesVirtualDisk"}),
        )
    },
    **{(function, Kind.WRONG_STATE): _REFUSED_ANYWAY for function in REFUSED},
    ("QueryChangesVirtualDisk", Kind.SMALL_BUFFER): (
        "what does not fit is left to the next call, which is no failure"
    ),
    ("DetachVirtualDisk", Kind.WRONG_TYPE): _ANY_TYPE,
    ("GetVirtualDiskPhysicalPath", Kind.WRONG_TYPE): _ANY_TYPE,
    ("GetAllAttachedVirtualDiskPhysicalPaths", Kind.WRONG_STATE): (
        "nothing attached is a list of nothing"
    ),
    ("GetAllAttachedVirtualDiskPhysicalPaths", Kind.MISSING_PRIVILEGE): (
        "takes no handle, and anybody may ask"
    ),
    ("GetAllAttachedVirtualDiskPhysicalPaths", Kind.WRONG_TYPE): "takes no image",
    ("GetStorageDependencyInformation", Kind.WRONG_STATE): (
        "answers at any time; where no image is in play, that is the type"
    ),
    ("GetStorageDependencyInformation", Kind.MISSING_PRIVILEGE): (
        "needs no right: a handle opened without any will do"
    ),
    ("EnumerateVirtualDiskMetadata", Kind.WRONG_STATE): (
        "an image is listed attached or not; no items are a list of nothing"
    ),
    ("GetVirtualDiskOperationProgress", Kind.MISSING_PRIVILEGE): (
        "who could begin the operation may ask about it"
    ),
    ("GetVirtualDiskOperationProgress", Kind.WRONG_TYPE): _ANY_TYPE,
    ("GetVirtualDiskOperationProgress", Kind.SMALL_BUFFER): (
        "fills a structure of fixed size"
    ),
    ("BreakMirrorVirtualDisk", Kind.MISSING_PRIVILEGE): (
        "a handle without the right has no mirror: its state is wrong"
    ),
    ("BreakMirrorVirtualDisk", Kind.WRONG_TYPE): (
        "an image of a wrong type has no mirror: its state is wrong"
    ),
    ("RawSCSIVirtualDisk", Kind.MISSING_PRIVILEGE): (
        "a handle without the right is not attached; a disk attached for "
        "reading refuses to write by its sense data"
    ),
    ("RawSCSIVirtualDisk", Kind.WRONG_TYPE): (
        "for whatever can be attached with NO_LOCAL_HOST"
    ),
    ("RawSCSIVirtualDisk", Kind.SMALL_BUFFER): (
        "a short buffer is a short transfer, and a success"
    ),
}
