"""The command line: ``virtdisk attach|detach|list|info|create|…``.

Everything it does, the package does; it turns words into arguments and
answers into text or JSON.

An image attached from the command line stays attached when the command ends
(it is permanent), unless ``--wait`` keeps the command in the foreground.

What takes long shows its progress on a terminal (on standard error, and not
with ``--json``).  Ctrl-C cancels it, and the command ends when it is over.

Exit codes: 0 done; 1 the operation failed, or ``chain`` has found a broken
chain; 2 wrong usage; 130 interrupted.  Failures go to standard error: a line
that says what happened and a line with a remedy, or with ``--json`` one JSON
object; words that are no command are answered with the usage.

JSON output is one object (``list`` and ``chain``: one array) on standard
output.  Its keys are the attributes of ``AttachedImage``, ``ChainLink`` and
``VirtualDiskInfo``; identifiers are strings, sizes are bytes, kinds are
lower-case words, what does not exist is null.  Keys may be added in later
versions; none will change its meaning.

Source: the functions of virtdisk.h of the same names.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import virtdisk
from virtdisk import VirtualDiskError
from virtdisk._arguments import absolute_path
from virtdisk._grammar import TYPES, build
from virtdisk._terminal import (
    Bar,
    error_object,
    format_size,
    plain,
    print_json,
    printable,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130


def _on_terminate(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _sleep() -> None:
    """Sleeps until Ctrl-C or SIGTERM, which raise KeyboardInterrupt."""
    while True:
        time.sleep(3600)


def _show_attached(disk: virtdisk.VirtualDisk, *, as_json: bool) -> None:
    """Says at once where the disk is: a reader of a pipe may wait for it."""
    if as_json:
        print_json({"path": disk.path, "physical_path": disk.physical_path})
    else:
        print(printable(disk.physical_path))
    sys.stdout.flush()


def _attach(arguments: argparse.Namespace) -> int:
    """Attaches, prints the device, and leaves it or waits."""
    if arguments.wait:
        signal.signal(signal.SIGTERM, _on_terminate)
    with virtdisk.attach(
        arguments.image,
        read_only=True if arguments.read_only else None,
        drive_letter=not arguments.no_drive_letter,
        permanent=not arguments.wait,
        security=arguments.security,
        restricted_range=tuple(arguments.range) if arguments.range else None,
        storage_type=TYPES.get(arguments.type),
    ) as disk:
        try:
            _show_attached(disk, as_json=arguments.json)
            if arguments.wait:
                _sleep()
        except KeyboardInterrupt:
            # From here on it is how a waiting command is asked to end.
            if not arguments.wait:
                raise
    return DONE


def _detach(arguments: argparse.Namespace) -> int:
    """Detaches; silent like umount unless asked for JSON."""
    virtdisk.detach(arguments.image)
    if arguments.json:
        print_json({"path": absolute_path(arguments.image)})
    return DONE


def _list(arguments: argparse.Namespace) -> int:
    """Lists device and image, one pair a line."""
    images = virtdisk.attached()
    if arguments.json:
        print_json(images)
        return DONE
    width = max((len(printable(i.physical_path)) for i in images), default=0)
    for image in images:
        device = printable(image.physical_path)
        print(f"{device:{width}}  {printable(image.path)}")
    return DONE


def _info_rows(disk: virtdisk.VirtualDisk) -> list[tuple[str, str]]:
    """What ``info`` shows to people: a label and a text each."""
    info = disk.info
    rows: list[tuple[str, object]] = [
        ("image", printable(disk.path)),
        ("type", info.storage_type),
        ("subtype", info.subtype),
        ("virtual size", f"{format_size(info.virtual_size)} ({info.virtual_size})"),
        ("physical size", f"{format_size(info.physical_size)} ({info.physical_size})"),
        ("block size", format_size(info.block_size) if info.block_size else None),
        ("sector size", info.sector_size),
        ("physical sector size", info.physical_sector_size),
        ("identifier", info.identifier),
        ("virtual disk id", info.virtual_disk_id),
        ("4 KiB aligned", info.is_4k_aligned),
        ("attached", info.is_loaded),
        ("smallest safe size", info.smallest_safe_virtual_size),
        ("fragmentation", info.fragmentation),
    ]
    if info.parent is not None:
        found = "" if info.parent.resolved else " (not found)"
        parents = ", ".join(map(printable, info.parent.paths))
        rows.append(("parent", parents + found))
    return [(label, shown(value)) for label, value in rows if value is not None]


def _info(arguments: argparse.Namespace) -> int:
    """Shows what is known about an image."""
    with virtdisk.open(
        arguments.image, info_only=True, storage_type=TYPES.get(arguments.type)
    ) as disk:
        if arguments.json:
            _show_disk(disk)
            return DONE
        rows = _info_rows(disk)
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        print(f"{label + ':':{width + 1}}  {text}")
    return DONE


def _show_disk(disk: virtdisk.VirtualDisk) -> None:
    """Tells programs all about a disk."""
    answer = plain(disk.info)
    assert isinstance(answer, dict)
    print_json({"path": disk.path, **answer})


def _create(arguments: argparse.Namespace) -> int:
    """Makes an image."""
    with (
        Bar(hidden=arguments.json) as bar,
        virtdisk.create(
            arguments.image,
            arguments.size,
            type=arguments.subtype,
            parent=arguments.parent,
            source=arguments.source,
            **_new_image(arguments),
            security=arguments.security,
            progress=bar,
        ) as disk,
    ):
        if arguments.json:
            _show_disk(disk)
    return DONE


def _new_image(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``create`` and ``convert`` are told alike."""
    return {
        "block_size": arguments.block_size,
        "sector_size": arguments.sector_size,
        "physical_sector_size": arguments.physical_sector_size,
        "id": arguments.id,
        "storage_type": TYPES.get(arguments.type),
    }


def _convert(arguments: argparse.Namespace) -> int:
    """Copies a disk into another kind of file."""
    raw = arguments.type == "raw"
    if raw and arguments.subtype is not None:
        msg = "--subtype is not for raw files"
        raise ValueError(msg)
    with Bar(hidden=arguments.json) as bar:
        virtdisk.convert(
            arguments.source,
            arguments.image,
            type="raw" if raw else arguments.subtype,
            source_type=arguments.source_type,
            **_new_image(arguments),
            progress=bar,
        )
    if arguments.json:
        source, path = absolute_path(arguments.source), absolute_path(arguments.image)
        print_json({"source": source, "path": path})
    return DONE


def _resize(arguments: argparse.Namespace) -> int:
    """Gives a disk another size."""
    with virtdisk.open(arguments.image) as disk, Bar(hidden=arguments.json) as bar:
        disk.resize(
            arguments.size,
            smallest=arguments.smallest,
            allow_unsafe=arguments.allow_unsafe,
            progress=bar,
        )
        if arguments.json:
            _show_disk(disk)
    return DONE


def _compact(arguments: argparse.Namespace) -> int:
    """Makes an image file smaller, and says by how much."""
    with virtdisk.open(arguments.image) as disk:
        before = os.stat(disk.path).st_size
        with Bar(hidden=arguments.json) as bar:
            disk.compact(
                zero_scan=not arguments.no_zero_scan,
                block_moves=not arguments.no_block_moves,
                progress=bar,
            )
        after = os.stat(disk.path).st_size
        if arguments.json:
            answer = {"path": disk.path, "physical_size_before": before}
            print_json({**answer, "physical_size": after})
        else:
            print(f"{format_size(before)} -> {format_size(after)}")
    return DONE


def _merge(arguments: argparse.Namespace) -> int:
    """Merges images of a chain."""
    links = virtdisk.chain(arguments.image)
    with virtdisk.open(arguments.image) as disk, Bar(hidden=arguments.json) as bar:
        disk.merge(
            source_depth=arguments.source_depth,
            target_depth=arguments.target_depth,
            progress=bar,
        )
    if arguments.json:
        merged = [link.path for link in links]
        source, target = arguments.source_depth - 1, arguments.target_depth - 1
        print_json({"path": merged[target], "merged": merged[source:target]})
    return DONE


def _mirror(arguments: argparse.Namespace) -> int:
    """Copies an image that may be in use."""
    with virtdisk.open(arguments.image) as disk, Bar(hidden=arguments.json) as bar:
        source = disk.path
        disk.mirror(arguments.target, existing=arguments.existing, progress=bar)
        if arguments.json:
            print_json({"source": source, "path": disk.path})
    return DONE


def _chain(arguments: argparse.Namespace) -> int:
    """Lists an image and its parents, one a line."""
    links = virtdisk.chain(arguments.image)
    if arguments.json:
        print_json(links)
    else:
        for link in links:
            kind = f"{shown(link.info.storage_type)} {shown(link.info.subtype or '')}"
            size = format_size(link.info.virtual_size)
            print(f"{printable(link.path)}  ({kind.strip()}, {size})")
    broken = links[-1].error
    if broken is None:
        return DONE
    _report(broken, as_json=arguments.json)
    return FAILED


_RUNS: Final = {
    "attach": _attach,
    "detach": _detach,
    "list": _list,
    "info": _info,
    "create": _create,
    "convert": _convert,
    "resize": _resize,
    "compact": _compact,
    "merge": _merge,
    "mirror": _mirror,
    "chain": _chain,
}


def _report(error: Exception, *, as_json: bool) -> None:
    """Says on standard error what went wrong."""
    if as_json:
        print(json.dumps(error_object(error)), file=sys.stderr)
        return
    lines = error.lines() if isinstance(error, VirtualDiskError) else [str(error)]
    print(f"virtdisk: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr)


def _close_output() -> None:
    """After a broken pipe: nothing more to flush at the interpreter's end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _open_closed_streams() -> None:
    """What was closed leads nowhere; its number must not become an image's."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The words after the program's name; those of the process if
            None.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.

    Raises:
        SystemExit: code 2 for wrong usage, code 0 after --help or --version.

    Source: virtdisk.attach, detach, attached and open.
    """
    _open_closed_streams()
    arguments = build(_RUNS).parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path that the terminal or pipe has no characters for is no error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
        return FAILED
    except (OSError, NotImplementedError) as error:
        _report(error, as_json=arguments.json)
        return FAILED
    except ValueError as error:
        _report(error, as_json=arguments.json)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code
