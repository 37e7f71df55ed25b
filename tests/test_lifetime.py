"""What is left behind: after many attachments, many threads, and kill -9."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import threading
import warnings

import pytest
from support import (
    PYTHON,
    eventually,
    let_go,
    loops_of,
    make_iso,
    make_vhd,
    open_descriptors,
    pattern,
    require_loop,
    require_tool,
    sha256,
)

import virtdisk

RECORDS = pathlib.Path("/run/virtdisk")

HOLD = """
import sys, time, virtdisk
disk = virtdisk.open(sys.argv[1])
disk.attach(permanent=sys.argv[2] == "permanent", drive_letter=False)
print(disk.physical_path, flush=True)
time.sleep(600)
"""


def resident_bytes() -> int:
    """Counted page by page: statm is behind by some pages for each processor."""
    rollup = pathlib.Path("/proc/self/smaps_rollup").read_text()
    (line,) = [line for line in rollup.splitlines() if line.startswith("Rss:")]
    return int(line.split()[1]) * 1024


def locks_on(path: pathlib.Path) -> list[str]:
    """The kernel's locks on a file."""
    status = path.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    return [
        line
        for line in pathlib.Path("/proc/locks").read_text().splitlines()
        if f" {device}:{status.st_ino} " in line
    ]


def records_of(path: pathlib.Path) -> list[pathlib.Path]:
    """Records of attachments that name an image."""
    found = []
    for record in RECORDS.iterdir() if RECORDS.exists() else ():
        try:
            if f"image {path}\n".encode() in record.read_bytes():
                found.append(record)
        except OSError:
            continue
    return found


def is_listed(path: pathlib.Path) -> bool:
    return str(path) in [image.path for image in virtdisk.attached()]


def attach_and_read(image: pathlib.Path, expected: str) -> None:
    with virtdisk.attach(image, drive_letter=False) as disk:
        assert sha256(disk.physical_path) == expected


def test_a_thousand_attachments_leave_nothing(tmp_path: pathlib.Path) -> None:
    require_loop()
    vhd = make_vhd(tmp_path / "thousand.vhd", 1 << 20)
    iso = make_iso(tmp_path / "thousand.iso")
    for image in (vhd, iso) * 5:  # warm-up: caches, the records' directory
        with virtdisk.attach(image):
            pass
    descriptors, memory = open_descriptors(), resident_bytes()
    threads = len(os.listdir("/proc/self/task"))
    for _ in range(500):
        for image in (vhd, iso):
            with virtdisk.attach(image) as disk:
                assert disk.physical_path.startswith("/dev/loop")
    assert let_go(tmp_path)
    assert open_descriptors() == descriptors
    assert eventually(lambda: len(os.listdir("/proc/self/task")) <= threads)
    assert resident_bytes() - memory < 4 << 20
    assert locks_on(vhd) == locks_on(iso) == []
    assert records_of(vhd) == records_of(iso) == []
    assert not is_listed(vhd)
    assert not is_listed(iso)


def test_thirty_two_threads_at_once(tmp_path: pathlib.Path) -> None:
    require_loop()
    images = []
    for number in range(32):
        data = pattern(1 << 20, seed=100 + number)
        path = make_vhd(tmp_path / f"{number}.vhd", 1 << 20, data=data)
        raw = tmp_path / "raw"
        raw.write_bytes(data)
        images.append((path, sha256(raw)))
    descriptors = open_descriptors()
    start = threading.Barrier(len(images))
    failures: list[BaseException] = []

    def work(path: pathlib.Path, expected: str) -> None:
        try:
            start.wait()
            for _ in range(3):
                attach_and_read(path, expected)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=image) for image in images]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert let_go(tmp_path)
    assert open_descriptors() == descriptors
    for path, _ in images:
        assert locks_on(path) == []
        assert records_of(path) == []


def test_processes_compete_for_devices(tmp_path: pathlib.Path) -> None:
    """losetup takes and frees devices while we attach."""
    require_loop()
    losetup = require_tool("losetup", package="mount")
    other = tmp_path / "other.img"
    other.write_bytes(bytes(1 << 20))
    image = make_vhd(tmp_path / "ours.vhd", 1 << 20)
    expected = sha256(make_raw(tmp_path / "raw", 1 << 20))
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            done = subprocess.run(
                [losetup, "--show", "-f", other],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode == 0:
                device = done.stdout.strip()
                subprocess.run([losetup, "-d", device], check=True)

    churner = threading.Thread(target=churn)
    churner.start()
    try:
        for _ in range(60):
            attach_and_read(image, expected)
    finally:
        stop.set()
        churner.join()
    assert let_go(tmp_path)


def make_raw(path: pathlib.Path, size: int) -> pathlib.Path:
    path.write_bytes(pattern(size))
    return path


def hold(image: pathlib.Path, lifetime: str) -> subprocess.Popen[str]:
    """Another process that attaches the image and stays."""
    return subprocess.Popen(
        [*PYTHON, "-c", HOLD, image, lifetime],
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(holder: subprocess.Popen[str]) -> str:
    """kill -9; returns the device it had."""
    assert holder.stdout is not None
    device = holder.stdout.readline().strip()
    assert device.startswith("/dev/loop")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    return device


def test_kill_leaves_nothing(tmp_path: pathlib.Path) -> None:
    require_loop()
    image = make_vhd(tmp_path / "killed.vhd")
    kill(hold(image, "bound"))
    assert let_go(tmp_path)
    assert eventually(lambda: locks_on(image) == [])
    assert not is_listed(image)
    assert records_of(image) == []  # the look at the list removed it
    with virtdisk.attach(image) as disk:
        assert disk.physical_path


def test_permanent_survives_a_kill(tmp_path: pathlib.Path) -> None:
    require_loop()
    image = make_vhd(tmp_path / "permanent.vhd")
    device = kill(hold(image, "permanent"))
    try:
        assert list(loops_of(tmp_path)) == [device]
        assert is_listed(image)
        with virtdisk.open(image, info_only=True) as disk:
            assert disk.physical_path == device
        with pytest.raises(virtdisk.VirtualDiskError) as caught:
            virtdisk.attach(image)
        assert caught.value.winerror == 32
    finally:
        virtdisk.detach(image)
    assert let_go(tmp_path)
    assert records_of(image) == []


def test_forked_child_does_not_hold_the_device(tmp_path: pathlib.Path) -> None:
    require_loop()
    image = make_vhd(tmp_path / "forked.vhd")
    disk = virtdisk.attach(image)
    child = subprocess.Popen(["sleep", "600"])  # exec: nothing inherited
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # has threads
        forked = os.fork()
    if forked == 0:
        signal.pause()
        os._exit(0)
    try:
        disk.close()
        assert let_go(tmp_path)
    finally:
        for process in (forked, child.pid):
            os.kill(process, signal.SIGKILL)
        os.waitpid(forked, 0)
        child.wait()


def test_detach_from_another_process(tmp_path: pathlib.Path) -> None:
    require_loop()
    image = make_vhd(tmp_path / "taken.vhd")
    with virtdisk.attach(image) as disk:
        code = "import sys, virtdisk; virtdisk.detach(sys.argv[1])"
        subprocess.run([*PYTHON, "-c", code, image], check=True)
        assert let_go(tmp_path)
        with pytest.raises(virtdisk.VirtualDiskError) as caught:
            disk.physical_path  # noqa: B018
        assert caught.value.winerror == 55
        disk.detach()  # already so: not an error
    assert records_of(image) == []


def test_dropped_attachment_warns_and_detaches(tmp_path: pathlib.Path) -> None:
    require_loop()
    image = make_vhd(tmp_path / "dropped.vhd")
    disk = virtdisk.attach(image)
    with pytest.warns(ResourceWarning, match="dropped.vhd"):
        del disk
    assert let_go(tmp_path)
