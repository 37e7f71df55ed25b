"""On the kernel that Debian ships, whatever kernel runs the tests otherwise.

What the kernel asks of a served file, when, and what a loop device makes of
the answers has changed from version to version.  So tests of attaching run
once more in a virtual machine with the newest kernel in /boot.  It has this
machine's file system, to read, and a disk of its own for what they write.
"""

from __future__ import annotations

import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig

import pytest
from engine_build import run
from support import LINUX, PYTHON, ROOT, missing, require_root, require_tool

pytestmark = [
    pytest.mark.tree,
    pytest.mark.skipif(not LINUX, reason="the engine is for Linux"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="an x86 kernel"),
]

# What needs no compiler: that takes minutes there.
CHOSEN = [
    "tests/test_facade_real.py",
    "tests/test_volumes.py",
    "tests/test_resize_attached.py::test_larger_and_smaller",
    "tests/test_resize_attached.py::test_a_mounted_file_system",
]
SCRATCH = "/run/scratch"
TIME_LIMIT = 1800  # in seconds; there may be no hardware to help
GIB = 1 << 30


def kernel() -> pathlib.Path:
    """The newest one that has its modules."""
    found = [
        path
        for path in pathlib.Path("/boot").glob("vmlinuz-*")
        if os.path.isdir(f"/lib/modules/{path.name.removeprefix('vmlinuz-')}")
    ]
    if not found:
        missing("no kernel in /boot (Debian package linux-image-amd64)")
    return max(found, key=lambda path: path.stat().st_mtime)


# Where this environment has its programs, virtme-ng's among them.
SCRIPTS = sysconfig.get_path("scripts")


def require_vng() -> str:
    """virtme-ng's program, and what it needs."""
    require_tool("qemu-system-x86_64", package="qemu-system-x86")
    require_tool("busybox", package="busybox-static")
    require_tool("modprobe", package="kmod")
    found = shutil.which("vng", path=SCRIPTS)
    if found is None:
        missing("vng is not installed (virtme-ng of the extra `test`)")
    return found


def guest_commands() -> str:
    """What the virtual machine's shell is given to do."""
    tests = [
        *PYTHON,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        f"--basetemp={SCRATCH}/tests",
        f"--rootdir={ROOT}",
        *(str(ROOT / name) for name in CHOSEN),
    ]
    commands = [
        ["set", "-e"],
        ["modprobe", "-a", "loop", "fuse"],
        ["mkdir", SCRATCH],
        ["mount", "/dev/vda", SCRATCH],
        ["export", f"TMPDIR={SCRATCH}", f"HOME={SCRATCH}", "VIRTDISK_REQUIRE=all"],
        ["cd", str(ROOT)],
        tests,
    ]
    return "\n".join(shlex.join(command) for command in commands) + "\n"


def make_disk(path: pathlib.Path) -> None:
    with open(path, "xb") as file:
        file.truncate(8 * GIB)
    run([require_tool("mkfs.ext4", package="e2fsprogs"), "-q", "-F", str(path)])


def test_attaching(tmp_path: pathlib.Path) -> None:
    require_root()
    vng = require_vng()
    make_disk(tmp_path / "scratch.img")
    script = tmp_path / "guest.sh"
    script.write_text(guest_commands())
    machine = [
        *("--disable-kvm", "--force-9p", "--memory", "2G", "--cpus", "2"),
        *("--user", "root", "--disk", str(tmp_path / "scratch.img")),
        *("--run", str(kernel()), "--exec", shlex.join(["sh", str(script)])),
    ]
    done = subprocess.run(
        [sys.executable, vng, *machine],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PATH": os.pathsep.join([SCRIPTS, os.environ["PATH"]])},
        timeout=TIME_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed in " in done.stdout
