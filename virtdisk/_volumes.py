"""Who uses an attached disk: mounts, swap, stacked devices, processes.

Linux only, and only to say in an error's remedy what must be let go before a
disk can be detached or an image attached.  Everything comes from the kernel's
own tables and is a momentary view: what cannot be read is left out, and
nothing here raises.

Source: proc_pid_mountinfo(5), proc_swaps(5), proc_pid_fd(5),
Documentation/ABI/stable/sysfs-block.
"""

from __future__ import annotations

import os
import pathlib
import re

__all__ = ["describe_holders", "describe_users", "mount_points"]

_SYS_BLOCK = pathlib.Path("/sys/block")
_PROC = pathlib.Path("/proc")
_SHOWN = 3  # of each kind; a remedy is one line
_KEEPER = "virtdisk-keeper"  # has what is below the file that shows a disk


def _text(path: pathlib.Path) -> str:
    """A small file's content; empty if it cannot be read."""
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""


def _unescape(field: str) -> str:
    r"""Undoes the kernel's octal escapes (``\040`` is a space)."""
    raw = re.sub(
        rb"\\([0-7]{3})",
        lambda match: bytes([int(match[1], 8) & 0xFF]),
        os.fsencode(field),
    )
    return os.fsdecode(raw)


def _sysfs_parts(name: str) -> list[pathlib.Path]:
    """The sysfs directories of a disk and of its partitions."""
    disk = _SYS_BLOCK / name
    try:
        parts = [entry.parent for entry in disk.glob("*/partition")]
    except OSError:
        parts = []
    return [disk, *sorted(parts)]


def _numbers_and_nodes(device: str) -> tuple[set[str], set[str]]:
    """The numbers and the nodes of a disk and of its partitions."""
    node = os.path.realpath(device)
    parts = _sysfs_parts(os.path.basename(node))
    numbers = {_text(part / "dev").strip() for part in parts}
    nodes = {os.path.join(os.path.dirname(node), part.name) for part in parts}
    return numbers - {""}, nodes


def mount_points(physical_path: str) -> list[str]:
    """Where file systems of a disk are mounted.

    Args:
        physical_path: The disk's block device (``/dev/loop3``).

    Returns:
        The mount points of the disk and its partitions that this process can
        see (its mount namespace), sorted.  Raises nothing.

    Source: /proc/self/mountinfo.
    """
    numbers, nodes = _numbers_and_nodes(physical_path)
    found = set()
    for line in _text(_PROC / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, source = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(source) < 2:
            continue
        # Some file systems (btrfs) have a number of their own: the source
        # then still names the device.
        if fields[2] in numbers or _unescape(source[1]) in nodes:
            found.add(_unescape(fields[4]))
    return sorted(found)


def _swaps(nodes: set[str]) -> list[str]:
    """Those of the nodes that serve as swap space."""
    lines = _text(_PROC / "swaps").splitlines()[1:]
    return sorted({_unescape(line.split()[0]) for line in lines if line} & nodes)


def _stacked(device: str) -> list[str]:
    """Devices that stand on the disk or a partition (dm, md, bcache)."""
    found: set[str] = set()
    for part in _sysfs_parts(os.path.basename(os.path.realpath(device))):
        try:
            found.update(entry.name for entry in (part / "holders").iterdir())
        except OSError:
            continue
    return sorted(found)


def _names(folder: pathlib.Path) -> list[str]:
    """What a folder holds; nothing if it cannot be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _has_open(process: pathlib.Path, nodes: set[str]) -> bool:
    """Whether a process has one of the nodes open."""
    for descriptor in _names(process / "fd"):
        try:
            if os.readlink(process / "fd" / descriptor) in nodes:
                return True
        except OSError:
            continue
    return False


def _processes(nodes: set[str]) -> list[str]:
    """Other processes that have one of the nodes open, as ``"name (pid)"``."""
    own = str(os.getpid())
    found = {
        name: _text(_PROC / name / "comm").strip()
        for name in filter(str.isdecimal, _names(_PROC))
        if name != own and _has_open(_PROC / name, nodes)
    }
    return [f"{comm} ({name})" for name, comm in found.items() if comm != _KEEPER]


def _own_files(nodes: set[str]) -> int:
    """How often this process has one of the nodes open.

    One of them may be the attachment's own hold on the device.
    """
    count = 0
    for name in _names(_PROC / "self/fd"):
        try:
            count += os.readlink(_PROC / "self/fd" / name) in nodes
        except OSError:
            continue
    return count


def _first(users: list[str]) -> str:
    """The first few of a list, as words."""
    more = len(users) - _SHOWN
    return ", ".join(users[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def describe_holders(image: str) -> str | None:
    """One line that says which processes have an image open.

    Args:
        image: The image file.

    Returns:
        The advice, or None if no other process can be seen.  Raises nothing.

    Source: /proc/PID/fd.
    """
    users = _processes({os.path.realpath(image)})
    return f"it is open in {_first(users)}: end or wait for that" if users else None


def describe_users(physical_path: str) -> str | None:
    """One line that says who uses a disk and how to make them let go.

    Args:
        physical_path: The disk's block device.

    Returns:
        The advice, or None if no user can be seen.  Raises nothing.

    Source: /proc/self/mountinfo, /proc/swaps, sysfs holders, /proc/PID/fd.
    """
    _, nodes = _numbers_and_nodes(physical_path)
    advice = [
        ("unmount", mount_points(physical_path)),
        ("swapoff", _swaps(nodes)),
        ("remove the device on top of it:", _stacked(physical_path)),
        ("end or wait for", _processes(nodes)),
    ]
    parts = [f"{verb} {_first(users)}" for verb, users in advice if users]
    if not parts and _own_files(nodes) > 1:
        parts = ["close the files that this process has open on it"]
    return "; ".join(parts) or None
