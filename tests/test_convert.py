"""CreateVirtualDisk with a source: copies from every kind into every other.

QEMU says whether two images hold the same.  Raw files as targets, which
virtdisk.h does not know, are in test_facade_convert.py.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest
from engine_build import Build
from images import MIB, TIB, Kind, running, unpack
from support import LINUX, PYTHON, image_names, make_iso, manifest, sha256
from witness import check_same, qemu_img

from virtdisk import _virtdisk as api

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine's behaviour")

LONG = os.environ.get("VIRTDISK_LONG") == "1"
SMALLEST = 3 * MIB
SIZE = 37 * MIB + 3 * 512
FIXED = 1
ABORTED = 995
KINDS = {
    "raw": (".img", 0),
    "vhd-fixed": (".vhd", FIXED),
    "vhd-dynamic": (".vhd", 0),
    "vhdx-fixed": (".vhdx", FIXED),
    "vhdx-dynamic": (".vhdx", 0),
}
TARGETS = [name for name in KINDS if name != "raw"]


def copy(source: pathlib.Path, target: pathlib.Path, **arguments: object) -> None:
    api.CreateVirtualDisk(
        str(target),
        source_path=str(source),
        **arguments,  # type: ignore[arg-type]
    ).close()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Data and holes of all sizes, zeros that are written, and odd ends."""
    generator = random.Random(4)
    path = tmp_path_factory.mktemp("raw") / "raw.img"
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for at in range(0, SIZE, 4 * MIB):
            file.seek(at + 512 * generator.randrange(1000))
            file.write(generator.randbytes(int(2 ** generator.uniform(5, 21))))
            file.write(bytes(generator.randrange(300_000)))
        file.seek(SIZE - 100)
        file.write(generator.randbytes(100))
    return path


@pytest.fixture(scope="module")
def images(raw: pathlib.Path) -> dict[str, pathlib.Path]:
    """The same content as every kind."""
    found = {"raw": raw}
    for name in TARGETS:
        suffix, flags = KINDS[name]
        found[name] = raw.with_name(name + suffix)
        copy(raw, found[name], flags=flags)
        check_same(found[name], raw)
    return found


@pytest.mark.parametrize(("source", "target"), list(itertools.product(KINDS, TARGETS)))
def test_every_direction(
    source: str,
    target: str,
    images: dict[str, pathlib.Path],
    tmp_path: pathlib.Path,
) -> None:
    suffix, flags = KINDS[target]
    before = sha256(images[source])
    made = tmp_path / f"made{suffix}"
    copy(images[source], made, flags=flags)
    check_same(made, images["raw"])
    assert sha256(images[source]) == before
    assert os.listdir(tmp_path) == [made.name]


@pytest.mark.parametrize("target", ["vhd-dynamic", "vhdx-dynamic"])
def test_holes_take_no_space(
    target: str, images: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """No more blocks than what has data needs: QEMU's copy has as many."""
    suffix, _ = KINDS[target]
    theirs = tmp_path / f"theirs{suffix}"
    ours = tmp_path / f"ours{suffix}"
    kind = {".vhd": "vpc", ".vhdx": "vhdx"}[suffix]
    options = {".vhd": "force_size=on", ".vhdx": "block_size=2097152"}[suffix]
    qemu_img("convert", "-O", kind, "-o", options, images["raw"], theirs)
    copy(images["vhdx-fixed"], ours, block_size_in_bytes=2 * MIB)
    # Windows' layout begins with up to 4 MiB, whatever the content.
    assert ours.stat().st_size <= theirs.stat().st_size + 4 * MIB
    assert ours.stat().st_blocks * 512 <= theirs.stat().st_blocks * 512 + 4 * MIB


@pytest.mark.parametrize("sector", [512, 4096])
def test_larger_and_other_sectors(
    sector: int, images: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """What lies behind the source reads as zeros."""
    made = tmp_path / "made.vhdx"
    copy(
        images["vhd-dynamic"],
        made,
        maximum_size=48 * MIB,
        sector_size_in_bytes=sector,
        block_size_in_bytes=MIB,
    )
    with api.OpenVirtualDisk(str(made), version=2) as handle:
        size, _, block, sectors = api.GetVirtualDiskInformation(handle, 1)
    assert (size, block, sectors) == (48 * MIB, MIB, sector)
    if sector == 512:  # all that QEMU knows
        check_same(made, images["raw"])


def test_sectors_of_the_source_are_kept(
    disk_build: Build, tmp_path: pathlib.Path
) -> None:
    """4096 bytes, through a size that is no multiple, and back to a tool."""
    source, made = tmp_path / "source.vhdx", tmp_path / "made.vhdx"
    data = random.Random(1).randbytes(MIB)
    with running(disk_build.link_once("disk_tool")) as tool:
        tool.create(Kind("vhdx-dynamic", sector=4096), 16 * MIB, source)
        tool.command(f"open write {source}")
        tool.command(f"write {3 * MIB} {MIB}", data)
        tool.command("flush")
        tool.command("close")
        copy(source, made)
        facts, _ = tool.command(f"open read {made}")
        assert '"sector": 4096' in facts
        assert tool.command(f"read {3 * MIB} {MIB}", expect=MIB)[1] == data
        assert tool.command(f"read {4 * MIB} {MIB}", expect=MIB)[1] == bytes(MIB)
        tool.command("close")
    with pytest.raises(OSError) as refused:
        copy(source, tmp_path / "made.vhd")
    assert refused.value.winerror == 0xC03A001D  # type: ignore[attr-defined]


def test_disc_becomes_a_disk(tmp_path: pathlib.Path) -> None:
    disc = make_iso(tmp_path / "disc.iso", sectors=4096)
    copy(disc, tmp_path / "disc.vhdx")
    check_same(tmp_path / "disc.vhdx", disc)


def test_small_source(tmp_path: pathlib.Path) -> None:
    """No disk is smaller than 3 MiB, but a copy may be larger than its source."""
    raw, made = tmp_path / "raw.img", tmp_path / "made.vhd"
    raw.write_bytes(b"small".ljust(512, b"."))
    with pytest.raises(OSError) as refused:
        copy(raw, made)
    assert refused.value.winerror == 0xC03A0012  # type: ignore[attr-defined]
    copy(raw, made, maximum_size=SMALLEST)
    check_same(made, raw)


def real_images() -> list[str]:
    """Those whose content can be told in a second; all of them at leisure."""
    limit = TIB if LONG else 64 * MIB
    return [
        name
        for name in image_names("vhd", "vhdx")
        if "raw_sha256" in manifest()[name]
        and SMALLEST <= manifest()[name]["virtual_size"] < limit
    ]


@pytest.mark.parametrize("name", real_images())
def test_real_image_becomes_one_of_ours(name: str, tmp_path: pathlib.Path) -> None:
    """All that it reads as; of a chain, whichever image that comes from."""
    source = unpack(name, tmp_path)
    kind, suffix = {".vhd": ("vpc", ".vhd"), ".avhd": ("vpc", ".vhd")}.get(
        source.suffix, ("vhdx", ".vhdx")
    )
    target = tmp_path / f"made-one{suffix}"
    raw = tmp_path / "raw.img"
    copy(source, target)
    qemu_img("convert", "-f", kind, "-O", "raw", target, raw)
    assert sha256(raw) == manifest()[name]["raw_sha256"]


# --- asynchronous -----------------------------------------------------------


def test_progress_and_result(
    images: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """It counts the bytes of the source, and never falls."""
    made = tmp_path / "made.vhdx"
    overlapped = api.Overlapped()
    handle = api.CreateVirtualDisk(
        str(made), source_path=str(images["vhd-dynamic"]), overlapped=overlapped
    )
    seen = []
    while not overlapped.wait(0.001):
        seen.append(overlapped.progress())
    overlapped.result()
    seen.append(overlapped.progress())
    current = [row[1] for row in seen]
    assert current == sorted(current)
    assert seen[-1][0] == 0
    assert seen[-1][1:] == (SIZE, SIZE)
    handle.close()
    check_same(made, images["raw"])


@pytest.mark.parametrize("target", TARGETS)
def test_cancelled_at_any_moment(
    target: str, images: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """Either all of it is there, or nothing."""
    generator = random.Random(target)
    suffix, flags = KINDS[target]
    made = tmp_path / f"made{suffix}"
    aborted = 0
    turns = 200 if LONG else 12
    # As many again while each copy was faster than its cancellation.
    for turn in itertools.chain(range(turns), itertools.repeat(0, 10 * turns)):
        if turn == 0 and aborted > 0:
            break
        overlapped = api.Overlapped()
        handle = api.CreateVirtualDisk(
            str(made),
            source_path=str(images["raw"]),
            flags=flags,
            overlapped=overlapped,
        )
        # The first at once, for a fast copy is soon over.
        time.sleep(generator.uniform(0, 0.02) * turn / turns)
        overlapped.cancel()
        overlapped.wait()
        handle.close()
        if overlapped.progress()[0] == ABORTED:
            aborted += 1
        else:
            overlapped.result()
            check_same(made, images["raw"])
            made.unlink()
        assert os.listdir(tmp_path) == []
    assert aborted > 0


KILLED = """
import sys
from virtdisk import _virtdisk as api
print(flush=True)
api.CreateVirtualDisk(sys.argv[2], source_path=sys.argv[1], flags=int(sys.argv[3]))
print("made", flush=True)
"""


@pytest.mark.parametrize("target", ["vhd-dynamic", "vhdx-fixed"])
def test_killed_at_any_moment(
    target: str, images: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """The name is there when the image is whole, and never before."""
    generator = random.Random(target)
    suffix, flags = KINDS[target]
    made = tmp_path / f"made{suffix}"
    words = [str(images["raw"]), str(made), str(flags)]
    for _ in range(200 if LONG else 8):
        with subprocess.Popen(
            [*PYTHON, "-c", KILLED, *words], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(generator.uniform(0, 0.08))
            process.send_signal(signal.SIGKILL)
        if made.exists():
            check_same(made, images["raw"])
            made.unlink()
        assert os.listdir(tmp_path) == []
