"""The grammar of the command line: commands, their words and what they mean.

What a command does is in cli.py.

Source: argparse.
"""

from __future__ import annotations

import argparse
import uuid
from typing import TYPE_CHECKING, Final

import virtdisk
from virtdisk import StorageType
from virtdisk._terminal import parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Run = Callable[[argparse.Namespace], int]

__all__ = ["TYPES", "build"]

TYPES: Final = {kind.name.lower(): kind for kind in StorageType if kind}
_NEW_TYPES: Final = ("vhd", "vhdx")

_EPILOG: Final = """\
sizes: bytes, or as 64GiB (64G is the same, 64GB are powers of ten)

exit codes:
  0    done
  1    the operation failed; standard error says why and what would help
       (chain: also if the chain is broken)
  2    wrong usage
  130  interrupted (Ctrl-C)
"""


def _new_image_arguments(parser: argparse.ArgumentParser) -> None:
    sizes = {
        "block-size": "the unit of allocation (VHD: 512KiB, 2MiB; VHDX: 1MiB-256MiB)",
        "sector-size": "the logical sector size (VHDX: 512 or 4096)",
        "physical-sector-size": "the physical sector size (VHDX: 512 or 4096)",
    }
    for name, text in sizes.items():
        parser.add_argument(f"--{name}", type=parse_size, metavar="SIZE", help=text)
    parser.add_argument(
        "--id",
        type=uuid.UUID,
        metavar="UUID",
        help="its identifier (default: a new one)",
    )


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the new file")
    parser.add_argument(
        "size",
        metavar="SIZE",
        nargs="?",
        type=parse_size,
        help="of the disk (default: that of the parent or source)",
    )
    parser.add_argument(
        "--type", choices=_NEW_TYPES, help="what to make (default: as the name ends)"
    )
    parser.add_argument(
        "--subtype",
        choices=("fixed", "dynamic", "differencing"),
        help="default: dynamic, with a parent differencing",
    )
    parser.add_argument("--parent", metavar="IMAGE", help="what it is a child of")
    parser.add_argument("--source", metavar="IMAGE", help="what to fill it with")
    _new_image_arguments(parser)
    parser.add_argument("--security", metavar="SDDL", help="who may use the file")


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="an image, raw file or device")
    parser.add_argument("image", metavar="TARGET", help="the new file")
    parser.add_argument(
        "--type",
        choices=("raw", *_NEW_TYPES),
        help="what to make (default: as the name ends, .img and .raw being raw)",
    )
    parser.add_argument(
        "--subtype", choices=("fixed", "dynamic"), help="default: dynamic"
    )
    parser.add_argument(
        "--source-type",
        choices=("raw",),
        help="the source is raw, whatever its name and content",
    )
    _new_image_arguments(parser)


def _resize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the image file")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("size", metavar="SIZE", nargs="?", type=parse_size)
    size.add_argument(
        "--smallest",
        action="store_true",
        help="as small as the last partition allows",
    )
    parser.add_argument(
        "--allow-unsafe",
        action="store_true",
        help="cut off what lies beyond the new size",
    )


def _compact_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the image file")
    parser.add_argument(
        "--no-zero-scan", action="store_true", help="do not look for blocks of zeros"
    )
    parser.add_argument(
        "--no-block-moves", action="store_true", help="do not move blocks"
    )


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the leaf of the chain")
    parser.add_argument(
        "--source-depth",
        type=int,
        default=1,
        metavar="N",
        help="where to begin; 1, the default, is the leaf",
    )
    parser.add_argument(
        "--target-depth",
        type=int,
        default=2,
        metavar="N",
        help="the image to write to; 2, the default, is the leaf's parent",
    )


def _mirror_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the image file")
    parser.add_argument("target", metavar="TARGET", help="the copy")
    parser.add_argument(
        "--existing", action="store_true", help="the copy is there, and overwritten"
    )


def _image_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the image file")
    parser.add_argument(
        "--type",
        choices=tuple(TYPES),
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
        type=parse_size,
        metavar=("OFFSET", "LENGTH"),
        help="show only this part of the disk",
    )
    parser.add_argument(
        "-w",
        "--wait",
        action="store_true",
        help="stay until Ctrl-C or SIGTERM, then detach",
    )


def _one_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the image file")


def _image_or_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="the image or its device")


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """There are no words."""


_COMMANDS: Final = {
    "attach": ("attach an image and print its device", _attach_arguments),
    "detach": ("detach an image, whoever attached it", _image_or_device),
    "list": ("list the images attached on this system", _nothing),
    "info": ("show what is known about an image", _image_arguments),
    "create": ("make a VHD or VHDX", _create_arguments),
    "convert": ("copy a disk into another kind of file", _convert_arguments),
    "resize": ("give a disk another size", _resize_arguments),
    "compact": ("make an image file smaller", _compact_arguments),
    "merge": ("write a differencing image into its parent", _merge_arguments),
    "mirror": ("copy an image and all that is written meanwhile", _mirror_arguments),
    "chain": ("list an image and all its parents", _one_image),
}


def build(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """Makes the parser of the whole command line.

    Args:
        runs: What each command does.

    Returns:
        A parser whose answers have ``run``, ``json`` and the words of the
        command.

    Raises:
        KeyError: A command that nobody carries out.

    Source: argparse.
    """
    parser = argparse.ArgumentParser(
        prog="virtdisk",
        description="Make, change and attach virtual disks: VHD, VHDX, ISO.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {virtdisk.__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (text, add_arguments) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=runs[name])
        command.add_argument("--json", action="store_true", help="answer in JSON")
        add_arguments(command)
    return parser
