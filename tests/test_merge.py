"""MergeVirtualDisk on whole chains, under kills, with other software to witness.

Every power cut of a small merge is in tests/engine/test_merge.c, misuse in
tests/engine/test_api_merge.c; here it is larger chains, read by QEMU and
libvhdi after the merge, and processes that are killed at it.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import os
import pathlib
import random
import shutil
import subprocess
import time
from typing import Any, NamedTuple

import pytest
from images import MIB, copy_sparse
from support import LINUX, PYTHON, missing, require_tool

import virtdisk
from virtdisk import AttachFlag, VirtualDiskError
from virtdisk import _virtdisk as api

pytestmark = pytest.mark.skipif(not LINUX, reason="needs the Linux engine")

SIZE = 24 * MIB
LONG = os.environ.get("VIRTDISK_LONG") == "1"
KILLS = 200 if LONG else 8
ID_MISMATCH = 0xC03A000E


class Kind(NamedTuple):
    """What the images of a chain are.

    Attributes:
        suffix: `.vhd` or `.vhdx`.
        options: What `virtdisk.create` takes for the root.
    """

    suffix: str
    options: dict[str, Any]

    def __str__(self) -> str:
        words = [self.suffix[1:], *map(str, self.options.values())]
        return "-".join(words)


KINDS = [
    Kind(".vhd", {"block_size": 2 * MIB}),
    Kind(".vhd", {"type": "fixed"}),
    Kind(".vhdx", {"block_size": MIB}),
    Kind(".vhdx", {"block_size": MIB, "sector_size": 4096}),
    Kind(".vhdx", {"type": "fixed"}),
]


class Chain:
    """Images and what a disk of each holds; 0 is the leaf."""

    def __init__(self, kind: Kind, directory: pathlib.Path, layers: int) -> None:
        self.kind = kind
        self.paths = [directory / f"{i}{kind.suffix}" for i in range(layers)]
        self.models: list[bytes] = [b""] * layers
        model = bytearray(SIZE)
        for i in reversed(range(layers)):
            self.create(i)
            self.write(i, model)
            self.models[i] = bytes(model)

    @property
    def leaf(self) -> pathlib.Path:
        return self.paths[0]

    @property
    def root(self) -> pathlib.Path:
        return self.paths[-1]

    def create(self, layer: int) -> None:
        if layer + 1 == len(self.paths):
            virtdisk.create(self.root, SIZE, **self.kind.options).close()
        else:
            parent = self.paths[layer + 1]
            virtdisk.create(self.paths[layer], parent=parent).close()

    def write(self, layer: int, model: bytearray) -> None:
        """Data, zeros that are stored, and zeros that are not, of this layer."""
        generator = random.Random(layer)
        with (
            virtdisk.attach(self.paths[layer], flags=AttachFlag.NO_LOCAL_HOST) as disk,
            disk.raw("r+b") as file,
        ):
            for number in range(24):
                length = generator.choice([4096, 64 << 10, 700 << 10, 3 * MIB])
                offset = generator.randrange((SIZE - length) // 4096) * 4096
                data = bytes(length) if number % 4 == 3 else generator.randbytes(length)
                file.seek(offset)
                file.write(data)
                model[offset : offset + length] = data


def content(path: pathlib.Path) -> bytes:
    """All that a disk holds."""
    with virtdisk.attach(path, read_only=True, flags=AttachFlag.NO_LOCAL_HOST) as disk:
        return disk.raw().read()


def merge(path: pathlib.Path, source: int, target: int) -> None:
    with virtdisk.open(path) as disk:
        disk.merge(source_depth=source, target_depth=target)


# --- other software ---------------------------------------------------------


def check_root(path: pathlib.Path, model: bytes) -> None:
    """QEMU finds no fault in an image that has no parent, and reads the same."""
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    form = {".vhd": "vpc", ".vhdx": "vhdx"}[path.suffix]
    if form == "vhdx":  # of VHD it can check nothing
        check = [qemu_img, "check", "-f", form, str(path)]
        subprocess.run(check, check=True, capture_output=True)
    raw = path.with_suffix(".raw")
    convert = [qemu_img, "convert", "-f", form, "-O", "raw", str(path), str(raw)]
    subprocess.run(convert, check=True)
    assert raw.read_bytes()[:SIZE] == model
    raw.unlink()


def check_chain(paths: list[pathlib.Path], model: bytes) -> None:
    """Libvhdi reads the same of a chain that was opened by these files."""
    try:
        module = importlib.import_module("pyvhdi")
    except ImportError:
        missing("libvhdi-python is not installed (from PyPI)")
    files = []
    for path in paths:
        file = module.file()
        file.open(str(path))
        files.append(file)
    for child, parent in itertools.pairwise(files):
        child.set_parent(parent)
    size = files[0].get_media_size()
    for offset in range(0, size, MIB):
        piece = files[0].read_buffer_at_offset(MIB, offset)
        assert piece == model[offset : offset + MIB], f"at {offset // MIB} MiB"
    for file in files:
        file.close()


# --- merging ----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_all_into_the_root(kind: Kind, tmp_path: pathlib.Path) -> None:
    chain = Chain(kind, tmp_path, 4)
    merge(chain.leaf, 1, 4)
    assert content(chain.root) == chain.models[0]
    # Nothing has been deleted; the leaf reads what it did.
    assert content(chain.leaf) == chain.models[0]
    for path in chain.paths[:-1]:
        path.unlink()
    assert content(chain.root) == chain.models[0]
    if kind.options.get("sector_size") != 4096:  # QEMU knows 512 only
        check_root(chain.root, chain.models[0])


@pytest.mark.parametrize("kind", KINDS[::2], ids=str)
def test_from_the_middle(kind: Kind, tmp_path: pathlib.Path) -> None:
    """The survivors stand on the target, in the words that others read too."""
    chain = Chain(kind, tmp_path, 4)
    with virtdisk.open(chain.leaf) as disk:
        disk.merge(source_depth=2, target_depth=3)
        disk.merge(source_depth=2, target_depth=3)
    chain.paths[1].unlink()
    chain.paths[2].unlink()
    assert content(chain.leaf) == chain.models[0]
    assert content(chain.root) == chain.models[1]
    check_root(chain.root, chain.models[1])
    if kind.suffix == ".vhdx":
        # Of a differencing VHD libvhdi misreads what is there in part.
        check_chain([chain.leaf, chain.root], chain.models[0])


def test_sibling_of_a_vhdx_is_refused(tmp_path: pathlib.Path) -> None:
    chain = Chain(KINDS[2], tmp_path, 2)
    sibling = tmp_path / "sibling.vhdx"
    virtdisk.create(sibling, parent=chain.root).close()
    assert content(sibling) == chain.models[1]
    merge(chain.leaf, 1, 2)
    with pytest.raises(VirtualDiskError) as caught:
        virtdisk.open(sibling)
    assert caught.value.winerror == ID_MISMATCH
    assert content(chain.leaf) == chain.models[0]


@pytest.mark.parametrize("kind", KINDS[::2], ids=str)
def test_what_is_zero_takes_no_space(kind: Kind, tmp_path: pathlib.Path) -> None:
    """An empty child of an empty parent leaves the parent as small as it is."""
    root, leaf = (tmp_path / f"{name}{kind.suffix}" for name in ("root", "leaf"))
    virtdisk.create(root, SIZE, **kind.options).close()
    virtdisk.create(leaf, parent=root).close()
    with (
        virtdisk.attach(leaf, flags=AttachFlag.NO_LOCAL_HOST) as disk,
        disk.raw("r+b") as file,
    ):
        file.write(bytes(8 * MIB))
        file.seek(20 * MIB)
        file.write(b"x" * 4096)
    before = root.stat().st_blocks * 512
    merge(leaf, 1, 2)
    assert root.stat().st_blocks * 512 < before + 4 * MIB
    assert content(root) == (bytes(20 * MIB) + b"x" * 4096).ljust(SIZE, b"\0")


def test_progress_and_cancel(tmp_path: pathlib.Path) -> None:
    chain = Chain(KINDS[2], tmp_path, 3)
    with virtdisk.open(chain.leaf) as disk:
        overlapped = api.Overlapped()
        api.MergeVirtualDisk(
            disk._handle,
            version=2,
            merge_source_depth=1,
            merge_target_depth=3,
            overlapped=overlapped,
        )
        overlapped.cancel()
        done = False
        while not done:
            status, value, completion = api.GetVirtualDiskOperationProgress(
                disk._handle, overlapped
            )
            assert value <= completion
            done = status != 997
        assert status in (0, 995)  # it may have been faster
    assert content(chain.leaf) == chain.models[0]
    merge(chain.leaf, 1, 3)
    assert content(chain.root) == chain.models[0]


# --- killed -----------------------------------------------------------------

MERGE = """
import sys
from virtdisk import _virtdisk as api
handle = api.OpenVirtualDisk(sys.argv[1], version=2)
print("ready", flush=True)
api.MergeVirtualDisk(
    handle, version=2, merge_source_depth=int(sys.argv[2]), merge_target_depth=3
)
print("done", flush=True)
"""


def merge_until(path: pathlib.Path, source: int, seconds: float | None) -> float:
    """Merges in a process of its own, killed after that time; how long it took."""
    with subprocess.Popen(
        [*PYTHON, "-c", MERGE, path, str(source)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        start = time.monotonic()
        if seconds is None:
            assert process.stdout.readline() == b"done\n"
        else:
            time.sleep(seconds)
            process.kill()
        return time.monotonic() - start


def digest(path: pathlib.Path) -> str:
    return hashlib.sha256(content(path)).hexdigest()


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[2]], ids=str)
@pytest.mark.parametrize("source", [1, 2])
def test_killed(kind: Kind, source: int, tmp_path: pathlib.Path) -> None:
    """At any moment the leaf reads the same, and the merge can be done again."""
    chain = Chain(kind, tmp_path, 3)
    leaf = hashlib.sha256(chain.models[0]).hexdigest()
    merged = hashlib.sha256(chain.models[source - 1]).hexdigest()
    kept = tmp_path / "kept"
    kept.mkdir()
    for path in chain.paths:
        copy_sparse(path, kept / path.name)
    generator = random.Random(source)
    needed = merge_until(chain.leaf, source, None)
    for _ in range(KILLS // 4):
        for path in chain.paths:
            copy_sparse(kept / path.name, path)
        merge_until(chain.leaf, source, generator.uniform(0, needed))
        assert digest(chain.leaf) == leaf
        if len(virtdisk.chain(chain.leaf)) == 3:  # else it had been done
            merge(chain.leaf, source, 3)
        assert digest(chain.leaf) == leaf
        assert digest(chain.root) == merged
    shutil.rmtree(kept)
