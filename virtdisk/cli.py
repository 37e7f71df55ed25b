"""The command line: ``virtdisk attach|detach|list|info``.

Everything it does, the package does; it turns words into arguments and
answers into text or JSON.

An image attached from the command line stays attached when the command ends
(it is permanent), unless ``--wait`` keeps the command in the foreground.

Exit codes: 0 done; 1 the operation failed; 2 wrong usage; 130 interrupted.
Failures go to standard error: a line that says what happened and a line with
a remedy, or with ``--json`` one JSON object.

JSON output is one object (``list``: one array) on standard output.  Its keys
are the attributes of ``AttachedImage`` and ``VirtualDiskInfo``; identifiers
are strings, sizes are bytes, kinds are lower-case words, what does not exist
is null.  Keys may be added in later versions; none will change its meaning.

Source: the functions of virtdisk.h of the same names.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import io
import json
import os
import signal
import sys
import time
import uuid
from typing import TYPE_CHECKING, Final

import virtdisk
from virtdisk import StorageType, VirtualDiskError
from virtdisk._arguments import absolute_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

_TYPES: Final = {kind.name.lower(): kind for kind in StorageType if kind}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

_EPILOG: Final = """\
exit codes:
  0    done
  1    the operation failed; standard error says why and what would help
  2    wrong usage
  130  interrupted (Ctrl-C)
"""


def format_size(size: int) -> str:
    """A size for people.

    Args:
        size: In bytes.

    Returns:
        ``"64.0 GiB"``; whole bytes below 1 KiB.  Raises nothing.

    Source: IEC 80000-13, binary prefixes.
    """
    value, unit = float(size), _UNITS[0]
    for unit in _UNITS:  # noqa: B007 - used after the loop
        # What would be shown as 1024.0 is one of the next unit.
        if value < 1023.95:
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


def _plain(value: object) -> object:
    """A value as JSON knows it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _print_json(value: object) -> None:
    print(json.dumps(_plain(value), indent=2))


def _printable(path: str | None) -> str:
    """A path for people: undecodable bytes and control characters escaped."""
    if path is None:
        return "-"
    return path if path.isprintable() else ascii(path)


def _shown(value: object) -> str:
    """A value of ``info`` for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, enum.Enum):
        return value.name.lower()
    return str(value)


def _on_terminate(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _sleep() -> None:
    """Sleeps until Ctrl-C or SIGTERM, which raise KeyboardInterrupt."""
    while True:
        time.sleep(3600)


def _show_attached(disk: virtdisk.VirtualDisk, *, as_json: bool) -> None:
    """Says at once where the disk is: a reader of a pipe may wait for it."""
    if as_json:
        _print_json({"path": disk.path, "physical_path": disk.physical_path})
    else:
        print(_printable(disk.physical_path))
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
        storage_type=_TYPES.get(arguments.type),
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
        _print_json({"path": absolute_path(arguments.image)})
    return DONE


def _list(arguments: argparse.Namespace) -> int:
    """Lists device and image, one pair a line."""
    images = virtdisk.attached()
    if arguments.json:
        _print_json(images)
        return DONE
    width = max((len(_printable(i.physical_path)) for i in images), default=0)
    for image in images:
        device = _printable(image.physical_path)
        print(f"{device:{width}}  {_printable(image.path)}")
    return DONE


def _info_rows(disk: virtdisk.VirtualDisk) -> list[tuple[str, str]]:
    """What ``info`` shows to people: a label and a text each."""
    info = disk.info
    rows: list[tuple[str, object]] = [
        ("image", _printable(disk.path)),
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
        parents = ", ".join(map(_printable, info.parent.paths))
        rows.append(("parent", parents + found))
    return [(label, _shown(value)) for label, value in rows if value is not None]


def _info(arguments: argparse.Namespace) -> int:
    """Shows what is known about an image."""
    with virtdisk.open(
        arguments.image, info_only=True, storage_type=_TYPES.get(arguments.type)
    ) as disk:
        if arguments.json:
            answer = _plain(disk.info)
            assert isinstance(answer, dict)
            _print_json({"path": disk.path, **answer})
            return DONE
        rows = _info_rows(disk)
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        print(f"{label + ':':{width + 1}}  {text}")
    return DONE


def _parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    parser = argparse.ArgumentParser(
        prog="virtdisk",
        description="Attach VHD, VHDX and ISO images as disks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {virtdisk.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--json", action="store_true", help="answer in JSON")
        return added

    _attach_arguments(
        command("attach", _attach, "attach an image and print its device")
    )
    detach = command("detach", _detach, "detach an image, whoever attached it")
    detach.add_argument("image", metavar="IMAGE", help="the image or its device")
    command("list", _list, "list the images attached on this system")
    info = command("info", _info, "show what is known about an image")
    _image_arguments(info)
    return parser


def _image_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the image file")
    parser.add_argument(
        "--type",
        choices=tuple(_TYPES),
        help="the image's type, if its content does not show it",
    )


def _attach_arguments(parser: argparse.ArgumentParser) -> None:
    _image_arguments(parser)
    parser.add_argument(
        "-r", "--read-only", action="store_true", help="the disk can only be read"
    )
    parser.add_argument(
        "--no-drive-letter",
        action="store_true",
        help="no drive letters; on Linux no partition nodes and no automounting",
    )
    parser.add_argument(
        "--security",
        metavar="SDDL",
        help="who may use the device (default: who may use the image)",
    )
    parser.add_argument(
        "--range",
        nargs=2,
        type=int,
        metavar=("OFFSET", "LENGTH"),
        help="show only this part of the disk, in bytes",
    )
    parser.add_argument(
        "-w",
        "--wait",
        action="store_true",
        help="stay until Ctrl-C or SIGTERM, then detach",
    )


def _report(error: OSError, *, as_json: bool) -> None:
    """Says on standard error what went wrong."""
    if isinstance(error, VirtualDiskError):
        lines = error.lines()
        code, name = error.winerror, error.name
        function, remedy = error.function, error.remedy
    else:
        lines, code, name, function, remedy = [str(error)], None, None, None, None
    if as_json:
        answer = {
            "error": name,
            "code": code,
            "function": function,
            "message": error.strerror or str(error),
            "path": error.filename,
            "remedy": remedy,
        }
        print(json.dumps(answer), file=sys.stderr)
        return
    print(f"virtdisk: {lines[0]}", *lines[1:], sep="\n", file=sys.stderr)


def _close_output() -> None:
    """After a broken pipe: nothing more to flush at the interpreter's end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


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
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path that the terminal or pipe has no characters for is no error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
        return FAILED
    except OSError as error:
        _report(error, as_json=arguments.json)
        return FAILED
    except NotImplementedError as error:
        print(f"virtdisk: {error}", file=sys.stderr)
        return FAILED
    except ValueError as error:
        print(f"virtdisk: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code
