"""The engine's C tests, and the engine against independent witnesses.

Every `tests/engine/test_*.c` is one test case here: linked with all engine
sources under the address and undefined-behaviour sanitizers, run with a
scratch directory, skipped if it exits with 77 (its last line says why).
`engine_tool.c` lets Python compare the layers below the API with real images,
QEMU, sfdisk and Python's own codecs.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import random
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from engine_build import C_TESTS, TIMEOUT, Build, run
from support import (
    LINUX,
    image_names,
    image_path,
    make_vhd,
    manifest,
    missing,
    pattern,
    require_loop,
    require_tool,
    vhd_checksum,
)

PROGRAMS = sorted(path.stem for path in C_TESTS.glob("test_*.c"))
SKIPPED = 77

SHARING_VIOLATION = 32
NOT_SUPPORTED = 50
INVALID_NAME = 123
FILE_CORRUPT = 1392
FOOTER_MISSING = 0xC03A0001
FOOTER_CHECKSUM = 0xC03A0002
PARENT_NOT_FOUND = 0xC03A000D
PROVIDER_NOT_FOUND = 0xC03A0014
ISO, VHD = 1, 2
NO_TABLE, MBR, GPT = 0, 1, 2
MIB = 1 << 20

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")


@pytest.mark.parametrize("name", PROGRAMS)
def test_c(name: str, engine_build: Build, tmp_path: pathlib.Path) -> None:
    """A C test program passes and the sanitizers find nothing."""
    run_program(engine_build.link(name), tmp_path)


@pytest.mark.parametrize("name", ["test_chain", "test_gate", "test_upkeep"])
def test_many_threads_on_one_disk(
    name: str, thread_build: Build, tmp_path: pathlib.Path
) -> None:
    """ThreadSanitizer finds no race.  (The other programs have one thread.)"""
    run_program(thread_build.link(name), tmp_path)


def run_program(program: pathlib.Path, directory: pathlib.Path) -> None:
    """Runs a C test; its output is the failure's text."""
    environment = {
        key: value for key, value in os.environ.items() if key != "VIRTDISK_DEBUG"
    }
    done = subprocess.run(
        [program, directory],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
        env=environment,
        check=False,
    )
    if done.returncode == SKIPPED:
        missing(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, f"{program}\n{done.stdout}{done.stderr}"


class Tool:
    """engine_tool, command by command."""

    def __init__(self, program: pathlib.Path) -> None:
        self.program = program

    def run(self, *arguments: object, text: str = "") -> str:
        """Its output; a sanitizer's finding fails the test."""
        done = subprocess.run(
            [self.program, *map(str, arguments)],
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, *arguments: object) -> Any:
        """Its output, from JSON."""
        return json.loads(self.run(*arguments))

    def open(self, path: pathlib.Path, device: int = 0) -> dict[str, Any]:
        """What vd_disk_open makes of an image."""
        facts: dict[str, Any] = self.ask("open", path, device)
        return facts

    def disk_sha256(self, path: pathlib.Path) -> str:
        """Of the whole disk, read through the engine."""
        digest = hashlib.sha256()
        with subprocess.Popen(
            [self.program, "read", path], stdout=subprocess.PIPE
        ) as reader:
            assert reader.stdout is not None
            while chunk := reader.stdout.read(MIB):
                digest.update(chunk)
        assert reader.returncode == 0
        return digest.hexdigest()

    @contextlib.contextmanager
    def lock(self, path: pathlib.Path, mode: str) -> Iterator[int]:
        """Holds the locks of an attachment; yields the error or 0."""
        with subprocess.Popen(
            [self.program, "lock", path, mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as holder:
            assert holder.stdout is not None
            yield json.loads(holder.stdout.readline())["error"]


@pytest.fixture(scope="session")
def tool(engine_build: Build) -> Tool:
    """The layers below the API, by command."""
    return Tool(engine_build.link("engine_tool"))


@pytest.mark.parametrize("name", image_names("iso") or ["k3b-joliet.iso"])
def test_real_iso(name: str, tool: Tool, tmp_path: pathlib.Path) -> None:
    """Discs by many makers: what they are, and every byte of them."""
    path = image_path(name, tmp_path)
    facts = manifest()[name]
    found = tool.open(path)
    if facts["size"] % 2048 != 0:
        assert found == {"error": FILE_CORRUPT}
        return
    assert found["error"] == 0
    assert (found["format"], found["sector"]) == ("ISO", 2048)
    assert found["optical"] and found["contiguous"] and found["offset"] == 0
    assert found["size"] == facts["virtual_size"]
    assert tool.disk_sha256(path) == facts["raw_sha256"]
    assert tool.open(path, VHD) == {"error": FOOTER_MISSING}


@pytest.mark.parametrize(
    "name",
    image_names("vhd", kind="fixed") or ["win7-fixed-200M-ntfs.vhd"],
)
def test_real_fixed_vhd(name: str, tool: Tool, tmp_path: pathlib.Path) -> None:
    """Fixed disks: size by the footer, content as other readers see it."""
    path = image_path(name, tmp_path)
    facts = manifest()[name]
    found = tool.open(path)
    assert found["error"] == 0
    assert (found["format"], found["sector"]) == ("VHD", 512)
    assert found["contiguous"] and found["offset"] == 0
    assert not found["optical"]
    assert found["size"] == facts["virtual_size"]
    assert tool.disk_sha256(path) == facts["raw_sha256"]
    assert tool.open(path, ISO)["error"] == FILE_CORRUPT


OTHER_VHDS = [
    *image_names("vhd", kind="dynamic"),
    *image_names("vhd", kind="differencing"),
]


@pytest.mark.parametrize("name", OTHER_VHDS or ["win8-dynamic-40M.vhd"])
def test_real_other_vhd(name: str, tool: Tool, tmp_path: pathlib.Path) -> None:
    """What the footer says; a child without its parent is not opened."""
    path = image_path(name, tmp_path)
    facts = manifest()[name]
    footer = tool.ask("footer", path)
    kinds = {"dynamic": 3, "differencing": 4}
    assert footer["error"] == 0
    assert footer["type"] == kinds[facts["kind"]]
    assert footer["size"] == facts["virtual_size"]
    found = tool.open(path)
    if facts["kind"] == "differencing":
        assert found == {"error": PARENT_NOT_FOUND}
    else:
        assert (found["error"], found["contiguous"]) == (0, False)
        assert found["size"] == facts["virtual_size"]


@pytest.mark.parametrize("name", OTHER_VHDS or ["win8-dynamic-40M.vhd"])
def test_damaged_footers_of_real_vhd(
    name: str, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """A lost footer is made up for by its copy, until that is lost too."""
    path = image_path(name, tmp_path)
    whole = tool.open(path)
    with open(path, "r+b") as image:
        image.seek(-512, os.SEEK_END)
        image.write(bytes(512))
        image.flush()
        assert tool.open(path) == whole
        image.seek(100)
        image.write(b"\xa5")
        image.flush()
        assert tool.open(path) == {"error": FOOTER_CHECKSUM}
        image.seek(0)
        image.write(bytes(512))
        image.flush()
        assert tool.open(path) == {"error": PROVIDER_NOT_FOUND}
        assert tool.open(path, VHD) == {"error": FOOTER_MISSING}


def test_geometry_is_footer_s_of_windows(tool: Tool, tmp_path: pathlib.Path) -> None:
    """Where Windows made the footer, our geometry is the one it wrote."""
    compared = 0
    for name in image_names("vhd"):
        if not name.startswith("win"):
            continue
        path = image_path(name, tmp_path)
        footer = tool.ask("footer", path)
        path.unlink()
        assert tool.ask("geometry", footer["size"]) == footer["geometry"]
        compared += 1
    if compared == 0:
        missing("real images not found (set VIRTDISK_TEST_IMAGES)")


@pytest.mark.parametrize("size", [1, 3, 40, 127, 504, 2000])
def test_fixed_vhd_of_qemu(size: int, tool: Tool, tmp_path: pathlib.Path) -> None:
    """QEMU rounds the size up to its geometry; both agree with ours."""
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    path = tmp_path / "qemu.vhd"
    create = [qemu_img, "create", "-q", "-f", "vpc", "-o", "subformat=fixed"]
    run([*create, str(path), f"{size}M"])
    information = run([qemu_img, "info", "--output=json", "-f", "vpc", str(path)])
    virtual_size = json.loads(information.stdout)["virtual-size"]
    footer = tool.ask("footer", path)
    assert footer["type"] == 2
    assert footer["size"] == footer["creator_size"] == virtual_size
    assert tool.ask("geometry", virtual_size) == footer["geometry"]
    assert tool.open(path)["size"] == virtual_size


def test_old_footer(tool: Tool, tmp_path: pathlib.Path) -> None:
    """The 511-byte footer of old software: the same, a byte shorter."""
    path = make_vhd(tmp_path / "old.vhd", 4 * MIB)
    expected = hashlib.sha256(pattern(4 * MIB)).hexdigest()
    assert tool.disk_sha256(path) == expected
    os.truncate(path, 4 * MIB + 511)
    assert tool.open(path)["size"] == 4 * MIB
    assert tool.disk_sha256(path) == expected
    os.truncate(path, 4 * MIB + 510)
    assert tool.open(path, VHD) == {"error": FOOTER_MISSING}


def test_vhd_holding_a_disc_needs_a_name(tool: Tool, tmp_path: pathlib.Path) -> None:
    """Two formats recognise it: the caller has to say which."""
    data = bytearray(MIB)
    data[32768:32775] = b"\x01CD001\x01"
    path = make_vhd(tmp_path / "disc.vhd", MIB, data=bytes(data))
    assert tool.open(path) == {"error": PROVIDER_NOT_FOUND}
    assert tool.open(path, VHD)["format"] == "VHD"
    assert tool.open(path, ISO) == {"error": FILE_CORRUPT}  # its length


def test_checksum_protects_every_byte(tool: Tool, tmp_path: pathlib.Path) -> None:
    """A flipped bit anywhere in the footer is noticed."""
    path = make_vhd(tmp_path / "disk.vhd", MIB)
    footer = path.read_bytes()[-512:]
    assert struct.unpack_from(">I", footer, 64)[0] == vhd_checksum(footer, 64)
    with open(path, "r+b", buffering=0) as image:
        for offset in range(0, 512, 7):
            damaged = bytearray(footer)
            damaged[offset] ^= 0x10
            image.seek(MIB)
            image.write(damaged)
            expected = FOOTER_MISSING if offset < 8 else FOOTER_CHECKSUM
            assert tool.open(path, VHD) == {"error": expected}, offset


def byte_strings() -> list[bytes]:
    """Valid and broken UTF-8: all short strings, edges, random ones."""
    edges = bytes.fromhex("01417f80818fa0bfc0c1c2dfe0e1edeeeff0f1f4f5ff909f")
    found = [bytes([a]) for a in range(1, 256)]
    found += [bytes(pair) for pair in itertools.product(range(1, 256), edges)]
    found += [bytes(three) for three in itertools.product(edges, repeat=3)]
    generator = random.Random(1)
    for _ in range(20_000):
        found.append(bytes(generator.choices(edges, k=generator.randint(4, 12))))
    return found


def test_utf16_as_python_decodes(tool: Tool) -> None:
    """Every byte string becomes what os.fsdecode says, and comes back."""
    samples = byte_strings()
    lines = tool.run(
        "utf16", text="".join(f"{sample.hex()}\n" for sample in samples)
    ).splitlines()
    assert len(lines) == len(samples)
    for sample, line in zip(samples, lines, strict=True):
        text = sample.decode("utf-8", "surrogateescape")
        units = text.encode("utf-16-be", "surrogatepass")
        assert line == f"{units.hex()} {sample.hex()}"


def bytes_of_units(units: tuple[int, ...]) -> bytes | None:
    """The path that UTF-16 units name, by Python's codecs; None if none."""
    packed = struct.pack(f">{len(units)}H", *units)
    text = packed.decode("utf-16-be", "surrogatepass")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def test_utf16_as_python_encodes(tool: Tool) -> None:
    """Every sequence of units becomes what os.fsencode says, or no name."""
    edges = [0x41, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xD800, 0xDBFF, 0xDC00]
    edges += [0xDC7F, 0xDC80, 0xDCC3, 0xDCFF, 0xDD00, 0xDFFF, 0xE000, 0xFFFF]
    samples: list[tuple[int, ...]] = [(unit,) for unit in range(1, 0x10000)]
    samples += itertools.chain.from_iterable(
        itertools.product(edges, repeat=length) for length in (2, 3)
    )
    text = "".join("".join(f"{unit:04x}" for unit in units) + "\n" for units in samples)
    lines = tool.run("bytes", text=text).splitlines()
    assert len(lines) == len(samples)
    for units, line in zip(samples, lines, strict=True):
        expected = bytes_of_units(units)
        if expected is None:
            assert line == f"error {INVALID_NAME}", units
        else:
            assert line == expected.hex(), units


def write_table(
    device: pathlib.Path | str, script: str
) -> list[tuple[int, int, int, str]]:
    """Lets sfdisk write a table; number, bytes from, bytes, type of each."""
    sfdisk = require_tool("sfdisk", package="fdisk")
    subprocess.run(
        [sfdisk, "--quiet", "--no-reread", "--no-tell-kernel", str(device)],
        input=script,
        capture_output=True,
        text=True,
        check=True,
    )
    table = json.loads(run([sfdisk, "--json", str(device)]).stdout)
    unit = table["partitiontable"]["sectorsize"]
    found = []
    for entry in table["partitiontable"].get("partitions", []):
        number = entry["node"].removeprefix(str(device)).lstrip("p")
        offset, length = entry["start"] * unit, entry["size"] * unit
        found.append((int(number), offset, length, entry["type"]))
    return sorted(found)


NOT_DATA = {
    "ef",
    "27",
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "E3C9E316-0B5C-4DB8-817D-F92DF00215AE",
    "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC",
}
EXTENDED = {"5", "f", "85"}
MBR_SCRIPT = """\
label: dos
start=2048, size=2048, type=7, bootable
size=4096, type=ef
size=100000, type={extended}
start=150000, size=2000, type=27
start=20480, size=2048, type=83
start=40960, size=2048, type=82
start=10240, size=4096, type=c
"""
GPT_SCRIPT = """\
label: gpt
size=1MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI"
size=1MiB, type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE
7: start=40MiB, size=8MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
128: start=30MiB, size=2MiB, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4
4: start=50MiB, size=1MiB, type=DE94BBA4-06D1-4D40-A16A-BFD50179D6AC
"""


def expected_partitions(
    written: list[tuple[int, int, int, str]],
) -> list[list[int | bool]]:
    """As the engine tells them: a container is cut, as Linux shows it."""
    return [
        [number, offset, 1024, False]
        if kind in EXTENDED
        else [number, offset, length, kind not in NOT_DATA]
        for number, offset, length, kind in written
    ]


@pytest.mark.parametrize("extended", sorted(EXTENDED))
def test_mbr_of_sfdisk(extended: str, tool: Tool, tmp_path: pathlib.Path) -> None:
    """Primary and logical partitions, the latter out of order."""
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 100 * MIB)
    written = write_table(path, MBR_SCRIPT.format(extended=extended))
    assert [entry[0] for entry in written] == [1, 2, 3, 4, 5, 6, 7]
    found = tool.ask("partitions", path, 512)
    assert found["scheme"] == MBR
    assert found["partitions"] == expected_partitions(written)
    assert found["end"] == max(start + size for _, start, size, _ in written)


def check_gpt(
    tool: Tool,
    path: pathlib.Path,
    sector: int,
    written: list[tuple[int, int, int, str]],
) -> None:
    """The same partitions from either copy; none without both."""
    last = max(start + size for _, start, size, _ in written)
    expected = {
        "error": 0,
        "scheme": GPT,
        "end": last + 128 * 128 + sector,  # the backup, moved: entries, header
        "partitions": expected_partitions(written),
    }
    assert tool.ask("partitions", path, sector) == expected
    expected["end"] = path.stat().st_size  # with the backup alone
    with open(path, "r+b", buffering=0) as disk:
        disk.seek(sector)
        disk.write(bytes(sector))
        assert tool.ask("partitions", path, sector) == expected
        disk.seek(-sector, os.SEEK_END)
        disk.write(bytes(sector))
    assert tool.ask("partitions", path, sector)["scheme"] == NO_TABLE


def test_gpt_of_sfdisk(tool: Tool, tmp_path: pathlib.Path) -> None:
    """Partitions with gaps in their numbers, and both copies of the table."""
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 100 * MIB)
    written = write_table(path, GPT_SCRIPT)
    assert [entry[0] for entry in written] == [1, 2, 4, 7, 128]
    check_gpt(tool, path, 512, written)


@contextlib.contextmanager
def loop_device(path: pathlib.Path, *options: str) -> Iterator[str]:
    """A loop device over a file, by the system's own tool."""
    losetup = require_tool("losetup", package="mount")
    command = [losetup, "--find", "--show", *options, str(path)]
    device = run(command).stdout.strip()
    try:
        yield device
    finally:
        run([losetup, "--detach", device])


@pytest.mark.parametrize("script", [GPT_SCRIPT, MBR_SCRIPT], ids=["gpt", "mbr"])
def test_tables_of_4096_byte_sectors(
    script: str, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """sfdisk writes to a device with such sectors; we read its file."""
    require_loop()
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 1000 * MIB)
    with loop_device(path, "--sector-size", "4096") as device:
        written = write_table(device, script.format(extended="5"))
    if script is GPT_SCRIPT:
        check_gpt(tool, path, 4096, written)
        return
    found = tool.ask("partitions", path, 4096)
    assert found["scheme"] == MBR
    cut = expected_partitions(written)
    assert [entry[0] for entry in cut] == [1, 2, 3, 4, 5, 6, 7]
    cut[2][2] = 2 * 4096
    assert found["partitions"] == cut


@pytest.mark.parametrize("width", [12, 16, 32])
def test_fat_is_no_table(width: int, tool: Tool, tmp_path: pathlib.Path) -> None:
    """A file system on the whole disk ends its first sector as an MBR."""
    mkfs = require_tool("mkfs.fat", package="dosfstools")
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, {12: 8, 16: 32, 32: 64}[width] * MIB)
    run([mkfs, "-F", str(width), str(path)])
    assert path.read_bytes()[510:512] == b"\x55\xaa"
    found = tool.ask("partitions", path, 512)
    assert found == {
        "error": 0,
        "scheme": NO_TABLE,
        "end": 0,
        "partitions": [],
    }


def test_host_of_a_file(tool: Tool, tmp_path: pathlib.Path) -> None:
    """Sector sizes of the disk under a file system, also of a partition."""
    require_loop()
    mkfs = require_tool("mkfs.ext4", package="e2fsprogs")
    addpart = require_tool("addpart", package="util-linux")
    disk, mount = tmp_path / "disk", tmp_path / "mount"
    disk.touch()
    mount.mkdir()
    os.truncate(disk, 64 * MIB)
    with loop_device(disk, "--sector-size", "4096") as device:
        run([addpart, device, "1", "2048", str(60 * MIB // 512)])
        node = f"{device}p1"
        number = pathlib.Path(f"/sys/class/block/{node[5:]}/dev").read_text()
        major, minor = map(int, number.split(":"))
        node = str(tmp_path / "node")
        os.mknod(node, 0o600 | 0o060000, os.makedev(major, minor))
        run([mkfs, "-q", node])
        run(["mount", node, str(mount)])
        try:
            path = make_vhd(mount / "disk.vhd", MIB)
            found = tool.open(path)
        finally:
            run(["umount", str(mount)])
            run(["delpart", device, "1"])
    assert (found["host_sector"], found["host_physical"]) == (4096, 4096)
    assert not found["remote"]


@contextlib.contextmanager
def qemu_holding(path: pathlib.Path, *options: str) -> Iterator[None]:
    """QEMU with an image open."""
    qemu_io = require_tool("qemu-io", package="qemu-utils")
    with subprocess.Popen(
        [qemu_io, *options, "-f", "raw", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write(b"length\n")
        holder.stdin.flush()
        answer = b""
        while b"\n" not in answer:
            read = os.read(holder.stdout.fileno(), 4096)
            assert read, "qemu-io ended"
            answer += read.replace(b"qemu-io> ", b"")
        try:
            yield
        finally:
            holder.stdin.close()


def qemu_opens(path: pathlib.Path, *command: str) -> tuple[bool, str]:
    """Whether a QEMU tool can open an image, and what it says."""
    program = require_tool(command[0], package="qemu-utils")
    done = subprocess.run(
        [program, *command[1:], path],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def image(tmp_path: pathlib.Path) -> pathlib.Path:
    """Something to be locked."""
    return make_vhd(tmp_path / "image.vhd", MIB)


@pytest.mark.parametrize(
    ("options", "mode", "error"),
    [
        ([], "w", SHARING_VIOLATION),
        ([], "r", SHARING_VIOLATION),
        (["-r"], "w", 0),  # qemu-io does not mind others that write
        (["-r"], "r", 0),
    ],
    ids=["rw-rw", "rw-ro", "ro-rw", "ro-ro"],
)
def test_lock_while_qemu_holds(
    options: list[str],
    mode: str,
    error: int,
    tool: Tool,
    image: pathlib.Path,
) -> None:
    """An image in a virtual machine cannot be attached against it."""
    with qemu_holding(image, *options), tool.lock(image, mode) as found:
        assert found == error
    with tool.lock(image, mode) as found:
        assert found == 0


QEMU_READ = ("-f", "raw", "-c", "read 0 512")
QEMU_INFO = ("qemu-img", "info", "-f", "vpc")
READ_512 = "read 512/512 bytes"


@pytest.mark.parametrize(
    ("mode", "command", "opens", "says"),
    [
        ("w", ("qemu-io", *QEMU_READ), False, 'get "write" lock'),
        ("r", ("qemu-io", *QEMU_READ), False, 'get "write" lock'),
        # As beside a running machine: who does not mind changes may read.
        ("w", ("qemu-io", "-r", *QEMU_READ), True, READ_512),
        ("r", ("qemu-io", "-r", *QEMU_READ), True, READ_512),
        ("w", QEMU_INFO, False, 'get shared "write" lock'),
        ("r", QEMU_INFO, True, "file format: vpc"),
    ],
    ids=["rw-rw", "ro-rw", "rw-ro", "ro-ro", "rw-info", "ro-info"],
)
def test_qemu_while_we_hold(
    mode: str,
    command: tuple[str, ...],
    opens: bool,
    says: str,
    tool: Tool,
    image: pathlib.Path,
) -> None:
    """A virtual machine cannot use an attached image against us."""
    with tool.lock(image, mode) as error:
        assert error == 0
        opened, said = qemu_opens(image, *command)
    assert opened == opens, said
    assert says in said
    assert qemu_opens(image, *command)[0]
