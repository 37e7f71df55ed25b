"""A file system on an attached disk lives through everything a user does.

mkfs.ext4, mount, a tree of files, unmount, detach, attach again, fsck, and
the same tree; then changes in it, space given back, and a child on top.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
from collections.abc import Iterator

import pytest
from engine_build import Build, run
from images import MIB, Kind, Tool, running
from support import LINUX, let_go, require_loop, require_tool, sha256

import virtdisk

pytestmark = pytest.mark.skipif(not LINUX, reason="the engine is for Linux")

KINDS = [
    Kind("vhd-dynamic", 2 * MIB),
    Kind("vhdx-dynamic", 2 * MIB, 512),
    Kind("vhdx-dynamic", MIB, 4096),
]
SIZE = 256 * MIB
Tree = dict[str, bytes]


@pytest.fixture
def tool(disk_build: Build) -> Iterator[Tool]:
    require_loop()
    with running(disk_build.link_once("disk_tool")) as tool:
        yield tool


@contextlib.contextmanager
def mounted(device: str, directory: pathlib.Path, *options: str) -> Iterator[None]:
    mount = require_tool("mount", package="mount")
    directory.mkdir(exist_ok=True)
    run(
        [
            mount,
            "-t",
            "ext4",
            "-o",
            ",".join(options or ("rw",)),
            device,
            str(directory),
        ]
    )
    try:
        yield
    finally:
        run([require_tool("umount", package="mount"), str(directory)])


def make_file_system(device: str, *options: str) -> None:
    mkfs = require_tool("mkfs.ext4", package="e2fsprogs")
    run([mkfs, "-q", "-F", *options, device])


def check_file_system(device: str) -> None:
    """fsck finds nothing to mend."""
    run([require_tool("fsck.ext4", package="e2fsprogs"), "-f", "-n", device])


def change_tree(top: pathlib.Path, tree: Tree, seed: int) -> None:
    """Makes, overwrites, extends and removes files, here and in `tree`."""
    choose = random.Random(seed)
    for number in range(60):
        name = f"{choose.randrange(8)}/{choose.randrange(5)}/{number}"
        size = choose.choice((0, 1, 511, 4096, 100_000, choose.randrange(2 * MIB)))
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        tree[name] = choose.randbytes(size)
        (top / name).write_bytes(tree[name])
    for name in choose.sample(sorted(tree), len(tree) // 4):
        if choose.random() < 0.5:
            (top / name).unlink()
            del tree[name]
        else:
            with open(top / name, "ab") as file:
                file.write(b"more" * 1000)
            tree[name] += b"more" * 1000


def read_tree(top: pathlib.Path) -> Tree:
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file()
    }


def expect_tree(path: pathlib.Path, mount_point: pathlib.Path, tree: Tree) -> None:
    """Attached anew and read-only, it is sound and holds these files."""
    before = sha256(path)
    with virtdisk.attach(path, read_only=True, drive_letter=False) as disk:
        check_file_system(disk.physical_path)
        with mounted(disk.physical_path, mount_point, "ro", "noload"):
            assert read_tree(mount_point) == tree
    assert let_go(path.parent)
    assert sha256(path) == before


def change_image(
    path: pathlib.Path, mount_point: pathlib.Path, tree: Tree, seed: int
) -> None:
    """One session of a user, who also gives freed space back."""
    fstrim = require_tool("fstrim", package="util-linux")
    with virtdisk.attach(path, drive_letter=False) as disk:
        if not tree:
            make_file_system(disk.physical_path)
        with mounted(disk.physical_path, mount_point):
            change_tree(mount_point, tree, seed)
            run([fstrim, str(mount_point)])


def check_image(path: pathlib.Path, sector: int) -> None:
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    if path.suffix == ".vhdx" and sector == 512:
        run([qemu_img, "check", "-f", "vhdx", str(path)])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_tree_of_files(kind: Kind, tool: Tool, tmp_path: pathlib.Path) -> None:
    path = tool.create(kind, SIZE, tmp_path / f"disk{kind.suffix}")
    tree: Tree = {}
    for seed in range(3):
        change_image(path, tmp_path / "mount", tree, seed)
        check_image(path, kind.sector)
        expect_tree(path, tmp_path / "mount", tree)
    assert tree


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_chain_of_trees(kind: Kind, tool: Tool, tmp_path: pathlib.Path) -> None:
    """Three deep: each image goes on where its parent stopped."""
    path = tool.create(kind, SIZE, tmp_path / f"0{kind.suffix}")
    history: list[tuple[pathlib.Path, Tree]] = []
    tree: Tree = {}
    for depth in range(3):
        if depth:
            parent, path = path, tmp_path / f"{depth}{kind.suffix}"
            tool.create_child(parent, path, block=kind.block)
        change_image(path, tmp_path / "mount", tree, depth)
        history.append((path, dict(tree)))
    for image, expected in history:
        expect_tree(image, tmp_path / "mount", expected)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_space_of_a_discarded_disk_is_used_again(
    kind: Kind, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """Discarded and written anew, without a flush between: no larger."""
    path = tool.create(kind, SIZE, tmp_path / f"disk{kind.suffix}")
    blkdiscard = require_tool("blkdiscard", package="util-linux")
    data = random.Random(1).randbytes(128 * MIB)
    sizes = []
    with virtdisk.attach(path, drive_letter=False) as disk:
        for _ in range(3):
            with open(disk.physical_path, "r+b", buffering=0) as device:
                device.seek(MIB)
                device.write(data)
                os.fsync(device.fileno())
            sizes.append(path.stat().st_size)
            run([blkdiscard, disk.physical_path])
    assert sizes[0] >= 128 * MIB
    assert sizes == [sizes[0]] * 3


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_space_of_removed_files_is_used_again(
    kind: Kind, tool: Tool, tmp_path: pathlib.Path
) -> None:
    """Removed and trimmed, written anew: the image file does not grow.

    Without a journal: that goes on where it was at the last unmount, so that
    it comes to blocks which were never written.
    """
    path = tool.create(kind, SIZE, tmp_path / f"disk{kind.suffix}")
    mount_point = tmp_path / "mount"
    sizes = []
    with virtdisk.attach(path, drive_letter=False) as disk:
        make_file_system(disk.physical_path, "-O", "^has_journal")
        for name in ("one", "two", "three"):
            with mounted(disk.physical_path, mount_point):
                (mount_point / name).write_bytes(os.urandom(128 * MIB))
                os.sync()
                sizes.append(path.stat().st_size)
                (mount_point / name).unlink()
                os.sync()
                run([require_tool("fstrim", package="util-linux"), str(mount_point)])
        check_file_system(disk.physical_path)
    assert sizes[0] >= 128 * MIB
    assert max(sizes) <= sizes[0] + 16 * kind.block  # wherever it puts the file
