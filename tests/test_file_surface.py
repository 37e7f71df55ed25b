"""A disk as a file in the user's runtime directory, for one without privilege.

What he does is done in forks of this process: he may be unable to read the
interpreter.  What is left afterwards is looked for by root.
"""

from __future__ import annotations

import codecs
import contextlib
import copy
import ctypes
import errno
import os
import pathlib
import pickle
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    LINUX,
    image_path,
    make_iso,
    make_vhd,
    manifest,
    pattern,
    require_root,
    require_tool,
    sha256,
)

import virtdisk

pytestmark = pytest.mark.skipif(not LINUX, reason="Linux only")

NOBODY = 65534  # has an account, which fusermount3 wants to know
SIZE = 4 << 20
PATIENCE = 120.0  # seconds; nothing takes that long unless it hangs
CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38

Work = Callable[[], object]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Returns when it is true; fails the test if it never becomes so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.01)


def mount(library: ctypes.CDLL, source: str | None, target: str, flags: int) -> None:
    """mount(2), as the C library has it."""
    name = source.encode() if source is not None else None
    assert library.mount(name, target.encode(), None, flags, None) == 0, os.strerror(
        ctypes.get_errno()
    )


class Child:
    """A fork of this process in which the user does something.

    The work is a generator: what it yields is received with `receive`, and it
    goes on after `resume`.
    """

    def __init__(self, user: User, work: Callable[[], Iterator[object]]) -> None:
        self._answers, answers = os.pipe()
        orders, self._orders = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._answers)
            os.close(self._orders)
            user.forget_children()
            with contextlib.suppress(BaseException):
                user.become()
                self._work(work, answers, orders)
            os._exit(0)
        os.close(answers)
        os.close(orders)
        self._stream = open(self._answers, "rb")  # noqa: SIM115 - till finish
        self._ended = False

    @staticmethod
    def _work(work: Callable[[], Iterator[object]], answers: int, orders: int) -> None:
        try:
            for answer in work():
                os.write(answers, pickle.dumps(answer))
                if not os.read(orders, 1):
                    return
        except Exception as error:
            os.write(answers, pickle.dumps(error))

    def receive(self) -> Any:
        """What it yields next; raises what it raises."""
        answer = pickle.load(self._stream)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def resume(self) -> None:
        os.write(self._orders, b"\n")

    def forget(self) -> None:
        """In another child, which must not keep this one waiting."""
        if not self._ended:
            os.close(self._orders)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.finish()

    def finish(self) -> None:
        """Lets it end, and waits for that."""
        if not self._ended:
            os.close(self._orders)
            os.waitpid(self.pid, 0)
            self._stream.close()
            self._ended = True


class User:
    """Nobody, with a home and a runtime directory of his own."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.home = directory
        self.run = directory / "run"
        self.run.mkdir(mode=0o700)
        self.give(self.run)
        self.environment = {"XDG_RUNTIME_DIR": str(self.run)}
        self.prepare: Callable[[ctypes.CDLL], None] | None = None
        self._children: list[Child] = []

    @staticmethod
    def give(path: pathlib.Path) -> pathlib.Path:
        """Makes a file his."""
        os.chown(path, NOBODY, NOBODY)
        return path

    def give_directory(self) -> pathlib.Path:
        """The directory of files and records, made beforehand."""
        directory = self.run / "virtdisk"
        directory.mkdir(mode=0o700)
        return self.give(directory)

    def elsewhere(self, prepare: Callable[[ctypes.CDLL], None]) -> User:
        """The same one, whose processes have a mount namespace of their own.

        What they do there first, as root, is to prepare it.
        """
        other = copy.copy(self)
        other.prepare = prepare
        return other

    def become(self) -> None:
        if self.prepare is not None:
            library = ctypes.CDLL(None, use_errno=True)
            assert library.unshare(CLONE_NEWNS) == 0
            mount(library, None, "/", MS_REC | MS_PRIVATE)
            self.let_go_of_others(library)
            self.prepare(library)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # As after an exec: his own processes may look at each other.
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        os.environ.pop("XDG_RUNTIME_DIR", None)
        os.environ.update(self.environment)

    def let_go_of_others(self, library: ctypes.CDLL) -> None:
        """What they unmount meanwhile must not be kept busy here."""
        for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
            source, target = line.split()[:2]
            ours = f"{self.home}/".startswith(target)
            if source.startswith("/dev/loop") and not ours:
                library.umount2(target.encode(), MNT_DETACH)

    def start(self, work: Callable[[], Iterator[object]]) -> Child:
        child = Child(self, work)
        self._children.append(child)
        return child

    def forget_children(self) -> None:
        for child in self._children:
            child.forget()

    def do(self, work: Work) -> Any:
        """What the work returns, in a process of its own, which then ends."""
        child = self.start(lambda: iter([work()]))
        try:
            return child.receive()
        finally:
            child.finish()

    def refused(self, work: Work) -> virtdisk.VirtualDiskError:
        with pytest.raises(virtdisk.VirtualDiskError) as caught:
            self.do(work)
        return caught.value

    def hold(self, image: pathlib.Path, **options: Any) -> Child:
        """Attaches in a process that goes on, and yields the path."""

        def work() -> Iterator[object]:
            disk = virtdisk.attach(image, **options)
            yield disk.physical_path
            disk.close()
            yield None

        return self.start(work)

    def attached(self) -> list[virtdisk.AttachedImage]:
        """Those of his images that he is told are attached."""
        images = self.do(virtdisk.attached)
        return [i for i in images if i.path.startswith(f"{self.home}/")]

    def finish(self) -> None:
        for child in self._children:
            child.finish()

    # What root sees of it.

    def mounts(self) -> list[str]:
        lines = pathlib.Path("/proc/self/mounts").read_text().splitlines()
        return [line.split()[1] for line in lines if f"{self.home}/" in line]

    def processes(self, name: str = "virtdisk-") -> list[int]:
        """Servers and keepers that have something of his open."""
        return [
            int(entry.name)
            for entry in pathlib.Path("/proc").iterdir()
            if entry.name.isdecimal() and self._serves(entry, name)
        ]

    def _serves(self, process: pathlib.Path, name: str) -> bool:
        try:
            if not (process / "comm").read_text().startswith(name):
                return False
            links = [os.readlink(entry) for entry in (process / "fd").iterdir()]
        except OSError:
            return False
        return any(link.startswith(f"{self.home}/") for link in links)

    def files(self) -> list[str]:
        """What is in the directory of files and records, but its lock."""
        directory = self.run / "virtdisk"
        if not directory.exists():
            return []
        return sorted(name for name in os.listdir(directory) if name != "lock")

    def nothing_left(self) -> bool:
        return not (self.mounts() or self.processes() or self.files())

    def is_rid_of_it(self) -> bool:
        """Whether nothing is left after what had to leave nothing.

        Of the processes it may be that they are just ending.
        """
        if self.mounts() or self.files():
            return False
        wait_for(lambda: not self.processes(), "servers and keepers end")
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """The installed server, where nobody can execute it."""
    require_root()
    require_tool("fusermount3", package="fuse3")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    directory = pathlib.Path("/tmp") / f"virtdisk-server-{os.getpid()}"
    directory.mkdir(mode=0o755)
    package = pathlib.Path(virtdisk.__file__).parent
    copy = directory / "virtdisk-server"
    shutil.copy(package / "virtdisk-server", copy)
    copy.chmod(0o755)
    yield copy
    shutil.rmtree(directory)


@pytest.fixture
def user(server: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    """Nobody; fails the test if it leaves anything of his behind."""
    directory = pathlib.Path("/tmp") / f"virtdisk-{os.getpid()}-{os.urandom(4).hex()}"
    directory.mkdir(mode=0o755)
    User.give(directory)
    monkeypatch.setenv("VIRTDISK_SERVER", str(server))
    warm_up(directory)
    user = User(directory)
    try:
        yield user
        user.finish()
        wait_for(lambda: not user.processes(), "servers and keepers end")
        user.attached()  # sweeps
        wait_for(
            user.nothing_left,
            f"nothing is left: {user.mounts()} {user.processes()} {user.files()}",
        )
    finally:
        user.finish()
        for path in user.mounts():
            subprocess.run(["umount", "-l", path], check=False)
        shutil.rmtree(directory)


def warm_up(directory: pathlib.Path) -> None:
    """Imports what is imported late: nobody cannot."""
    codecs.lookup("utf-16-le")
    image = make_vhd(directory / "warm.vhd", 1 << 20)
    virtdisk.open(image).close()
    virtdisk.attached()
    with pytest.raises(virtdisk.VirtualDiskError):
        virtdisk.detach(image)
    image.unlink()


def convert(source: pathlib.Path, target: pathlib.Path, *options: str) -> pathlib.Path:
    """A raw file as an image of another kind, by QEMU."""
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    subprocess.run(
        [qemu_img, "convert", "-f", "raw", *options, str(source), str(target)],
        check=True,
    )
    return target


def make_dynamic(user: User, kind: str) -> pathlib.Path:
    raw = user.home / "raw"
    raw.write_bytes(pattern(SIZE))
    options = {
        "vhd": ["-O", "vpc", "-o", "subformat=dynamic,force_size=on"],
        "vhdx": ["-O", "vhdx", "-o", "subformat=dynamic"],
    }[kind]
    image = convert(raw, user.home / f"dynamic.{kind}", *options)
    raw.unlink()
    return user.give(image)


MAKERS: dict[str, Callable[[User], pathlib.Path]] = {
    "fixed-vhd": lambda user: user.give(make_vhd(user.home / "fixed.vhd", SIZE)),
    "dynamic-vhd": lambda user: make_dynamic(user, "vhd"),
    "dynamic-vhdx": lambda user: make_dynamic(user, "vhdx"),
}


@pytest.fixture(params=MAKERS)
def image(request: pytest.FixtureRequest, user: User) -> pathlib.Path:
    """An image of each kind that can be written, holding pattern(SIZE)."""
    return MAKERS[request.param](user)


@pytest.fixture
def vhd(user: User) -> pathlib.Path:
    return MAKERS["fixed-vhd"](user)


def read_raw(image: pathlib.Path) -> bytes:
    with virtdisk.attach(image, read_only=True) as disk, disk.raw() as file:
        return file.read()


# -- using it ---------------------------------------------------------------


def test_file_is_where_it_says(user: User, image: pathlib.Path) -> None:
    def look() -> tuple[str, os.stat_result, bool]:
        with virtdisk.attach(image) as disk:
            path = disk.physical_path
            return path, os.stat(path), os.path.ismount(path)

    path, status, is_mount = user.do(look)
    assert path == str(user.run / "virtdisk" / "disk-1")
    assert stat.S_ISREG(status.st_mode)
    assert status.st_size == SIZE
    assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert is_mount
    assert stat.S_IMODE(os.stat(user.run / "virtdisk").st_mode) == 0o700


def test_content_is_that_of_the_disk(user: User, image: pathlib.Path) -> None:
    before = sha256(image)
    assert user.do(lambda: read_raw(image)) == pattern(SIZE)
    assert sha256(image) == before


def test_iso(user: User) -> None:
    image = user.give(make_iso(user.home / "disc.iso", 64))

    def look() -> tuple[bytes, int, int]:
        with virtdisk.attach(image) as disk:
            with pytest.raises(OSError) as caught:
                disk.raw("r+b")
            mode = os.stat(disk.physical_path).st_mode
            return disk.raw().read(), mode, caught.value.errno or 0

    content, mode, refusal = user.do(look)
    assert content == image.read_bytes()
    assert stat.S_IMODE(mode) == 0o400
    assert refusal in (errno.EROFS, errno.EACCES)


def test_what_is_written_is_there_after_detaching(
    user: User, image: pathlib.Path
) -> None:
    expected = bytearray(pattern(SIZE))
    expected[1000:1500] = b"w" * 500  # neither whole sectors nor pages
    expected[2 << 20 : 3 << 20] = bytes(1 << 20)

    def write() -> None:
        with virtdisk.attach(image) as disk, disk.raw("r+b") as file:
            file.seek(1000)
            file.write(b"w" * 500)
            file.seek(2 << 20)
            file.write(bytes(1 << 20))

    user.do(write)
    assert user.do(lambda: read_raw(image)) == bytes(expected)
    qemu_img = require_tool("qemu-img", package="qemu-utils")
    if image.suffix == ".vhdx":  # clean at once, its log too
        subprocess.run([qemu_img, "check", "-f", "vhdx", image], check=True)


def test_other_programs_use_it(user: User) -> None:
    """A file system is made, filled and checked in it, with no mount."""
    mkfs = require_tool("mkfs.ext4", package="e2fsprogs")
    debugfs = require_tool("debugfs", package="e2fsprogs")
    fsck = require_tool("e2fsck", package="e2fsprogs")
    image = make_dynamic(user, "vhdx")

    def work() -> bytes:
        os.chdir(user.home)
        with virtdisk.attach(image) as disk:
            path = disk.physical_path
            subprocess.run([mkfs, "-q", "-F", path], check=True)
            source = user.home / "hello"
            source.write_text("kept")
            subprocess.run(
                [debugfs, "-w", "-R", "write hello hello", path],
                check=True,
                capture_output=True,
            )
        with virtdisk.attach(image, read_only=True) as disk:
            path = disk.physical_path
            subprocess.run([fsck, "-f", "-n", path], check=True, capture_output=True)
            return subprocess.run(
                [debugfs, "-R", "cat hello", path], check=True, capture_output=True
            ).stdout

    assert user.do(work) == b"kept"


def test_size_cannot_be_changed(user: User, vhd: pathlib.Path) -> None:
    def work() -> list[int]:
        codes = []
        with virtdisk.attach(vhd) as disk:
            for size in (0, SIZE // 2, SIZE * 2):
                with pytest.raises(OSError) as caught:
                    os.truncate(disk.physical_path, size)
                codes.append(caught.value.errno or 0)
            with pytest.raises(OSError), open(disk.physical_path, "wb"):
                pass
            with disk.raw() as file:
                assert file.read() == pattern(SIZE)
        return codes

    assert user.do(work) == [errno.EPERM] * 3


def test_restricted_range(user: User, image: pathlib.Path) -> None:
    def look() -> bytes:
        with virtdisk.open(image) as disk:
            disk.attach(restricted_range=(1 << 20, 512 << 10))
            content = disk.raw().read()
            disk.detach()
            return content

    assert user.do(look) == pattern(SIZE)[1 << 20 : (1 << 20) + (512 << 10)]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, entry in manifest().items()
        if entry["kind"] in ("dynamic", "optical") and entry.get("raw_sha256")
    ][:4]
    or ["none"],
)
def test_real_image(user: User, name: str) -> None:
    image = user.give(image_path(name, user.home))

    def work() -> str:
        with virtdisk.attach(image, read_only=True) as disk:
            return sha256(disk.physical_path)

    assert user.do(work) == manifest()[name]["raw_sha256"]


# -- its life ---------------------------------------------------------------


def test_several_at_once(user: User) -> None:
    images = [
        user.give(make_vhd(user.home / f"{i}.vhd", SIZE, data=bytes([i]) * SIZE))
        for i in range(3)
    ]

    def work() -> list[tuple[str, bytes]]:
        with contextlib.ExitStack() as stack:
            disks = [stack.enter_context(virtdisk.attach(i)) for i in images]
            seen = [(d.physical_path, d.raw().read(1)) for d in disks]
            disks[1].detach()
            disks[1].attach()
            seen.append((disks[1].physical_path, disks[1].raw().read(1)))
            return seen

    directory = user.run / "virtdisk"
    assert user.do(work) == [
        (str(directory / "disk-1"), b"\0"),
        (str(directory / "disk-2"), b"\1"),
        (str(directory / "disk-3"), b"\2"),
        (str(directory / "disk-2"), b"\1"),
    ]


def test_goes_when_its_handle_is_closed(user: User, image: pathlib.Path) -> None:
    def work() -> tuple[bool, bool]:
        disk = virtdisk.attach(image)
        path = disk.physical_path
        there = os.path.exists(path)
        disk.close()
        return there, os.path.exists(path)

    assert user.do(work) == (True, False)
    assert user.files() == []


def test_goes_when_its_process_ends(user: User, image: pathlib.Path) -> None:
    user.do(lambda: virtdisk.attach(image).physical_path)
    wait_for(lambda: not (user.mounts() or user.processes()), "mount and server go")
    assert user.attached() == []


def test_goes_when_its_process_is_killed(user: User, image: pathlib.Path) -> None:
    def work() -> Iterator[object]:
        disk = virtdisk.attach(image)
        with disk.raw("r+b") as file:
            file.write(b"written")
        yield disk.physical_path
        yield None

    child = user.start(work)
    path = child.receive()
    assert user.mounts() == [path]
    assert len(user.processes()) == 2
    child.kill()
    wait_for(lambda: not (user.mounts() or user.processes()), "mount and server go")
    assert user.attached() == []
    assert user.files() == []
    assert user.do(lambda: read_raw(image))[:7] == b"written"


def test_a_forked_child_does_not_keep_it(user: User, vhd: pathlib.Path) -> None:
    def work() -> tuple[bool, bool]:
        disk = virtdisk.attach(vhd)
        path = disk.physical_path
        ready, told = os.pipe()
        end, ours = os.pipe()
        if os.fork() == 0:
            os.close(ready)
            os.close(ours)
            os.write(told, b"\n")
            os.read(end, 1)  # until its parent has ended
            os._exit(0)
        os.read(ready, 1)
        there = os.path.exists(path)
        disk.close()
        return there, os.path.exists(path)

    assert user.do(work) == (True, False)


def test_who_has_it_open_keeps_it(user: User, vhd: pathlib.Path) -> None:
    """The process that attached it is killed while another one reads."""
    holder = user.hold(vhd)
    path = holder.receive()

    def read() -> Iterator[object]:
        with open(path, "rb", buffering=0) as file:
            yield file.read(512)
            file.seek(512)
            yield file.read(512)

    reader = user.start(read)
    assert reader.receive() == pattern(512)
    holder.kill()
    wait_for(lambda: not user.mounts(), "the mount goes")
    assert user.refused(lambda: virtdisk.attach(vhd)).winerror == 32
    reader.resume()
    assert reader.receive() == pattern(1024)[512:]
    reader.finish()
    wait_for(lambda: not user.processes(), "the server goes")
    assert user.do(lambda: read_raw(vhd)) == pattern(SIZE)


def test_permanent(user: User, image: pathlib.Path) -> None:
    path = user.do(lambda: virtdisk.attach(image, permanent=True).physical_path)
    assert user.mounts() == [path]
    listed = user.attached()
    assert [(i.path, i.physical_path) for i in listed] == [(str(image), path)]

    def write() -> str:
        with virtdisk.open(image) as disk:
            found = disk.physical_path
        with open(found, "r+b") as file:
            file.write(b"written")
        return found

    assert user.do(write) == path
    user.do(lambda: virtdisk.detach(image))
    assert user.is_rid_of_it()
    assert user.do(lambda: read_raw(image))[:7] == b"written"


def test_permanent_outlives_a_kill(user: User, vhd: pathlib.Path) -> None:
    child = user.hold(vhd, permanent=True)
    path = child.receive()
    child.kill()
    assert user.do(lambda: pathlib.Path(path).read_bytes()) == pattern(SIZE)
    user.do(lambda: virtdisk.detach(vhd))
    assert user.is_rid_of_it()


def test_detached_by_another_process(user: User, image: pathlib.Path) -> None:
    holder = user.hold(image)
    path = holder.receive()
    user.do(lambda: virtdisk.detach(image))
    assert user.is_rid_of_it()
    assert user.do(lambda: os.path.exists(path)) is False
    holder.resume()  # closes what is gone
    assert holder.receive() is None
    error = user.refused(lambda: virtdisk.detach(image))
    assert error.winerror == 21


def test_detached_by_the_path_of_the_file(user: User, vhd: pathlib.Path) -> None:
    path = user.do(lambda: virtdisk.attach(vhd, permanent=True).physical_path)
    user.do(lambda: virtdisk.detach(path))
    assert user.is_rid_of_it()


def test_detached_elsewhere_and_attached_again(user: User, vhd: pathlib.Path) -> None:
    def work() -> Iterator[object]:
        disk = virtdisk.attach(vhd)
        yield disk.physical_path
        disk.attach()
        yield disk.physical_path
        disk.close()
        yield None

    holder = user.start(work)
    first = holder.receive()
    user.do(lambda: virtdisk.detach(vhd))
    holder.resume()
    assert holder.receive() == first
    holder.resume()
    assert holder.receive() is None


def test_busy_while_somebody_has_it_open(user: User, vhd: pathlib.Path) -> None:
    holder = user.hold(vhd)
    path = holder.receive()

    def read() -> Iterator[object]:
        with open(path, "rb"):
            yield None
        yield None

    reader = user.start(read)
    reader.receive()
    error = user.refused(lambda: virtdisk.detach(vhd))
    assert error.winerror == 170
    assert str(reader.pid) in (error.remedy or "")
    assert user.mounts() == [path]
    assert user.do(lambda: pathlib.Path(path).read_bytes()) == pattern(SIZE)
    reader.resume()
    reader.receive()
    user.do(lambda: virtdisk.detach(vhd))
    assert user.is_rid_of_it()


def test_busy_by_its_own_handle(user: User, vhd: pathlib.Path) -> None:
    def work() -> tuple[int, bytes]:
        disk = virtdisk.attach(vhd)
        with disk.raw() as file:
            with pytest.raises(virtdisk.VirtualDiskError) as caught:
                disk.detach()
            content = file.read(512)
        disk.detach()
        return caught.value.winerror, content

    assert user.do(work) == (170, pattern(512))


def test_attached_twice(user: User, image: pathlib.Path) -> None:
    holder = user.hold(image)
    holder.receive()
    assert user.refused(lambda: virtdisk.attach(image)).winerror == 32
    error = user.refused(lambda: virtdisk.attach(image, read_only=True))
    assert error.winerror == 32
    with pytest.raises(virtdisk.VirtualDiskError) as caught:
        virtdisk.attach(image)  # as root, as a device
    assert caught.value.winerror == 32


# -- accidents --------------------------------------------------------------


def test_server_is_killed(user: User, image: pathlib.Path) -> None:
    holder = user.hold(image)
    path = holder.receive()
    (server,) = user.processes("virtdisk-server")
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not (user.mounts() or user.processes()), "the mount goes")
    assert user.attached() == []
    assert user.files() == []
    assert user.do(lambda: read_raw(image)) == pattern(SIZE)
    assert user.do(lambda: os.path.exists(path)) is False


def test_server_is_killed_while_the_file_is_open(user: User, vhd: pathlib.Path) -> None:
    def work() -> Iterator[object]:
        disk = virtdisk.attach(vhd)
        descriptor = os.open(disk.physical_path, os.O_RDONLY)
        yield os.read(descriptor, 512)
        with pytest.raises(OSError) as caught:
            os.read(descriptor, 512)
        yield caught.value.errno
        with contextlib.suppress(OSError):  # says that it is dead, and closes
            os.close(descriptor)
        disk.attach()  # the same handle can go on
        with disk.raw() as again:
            yield again.read()
        disk.close()
        yield None

    holder = user.start(work)
    assert holder.receive() == pattern(512)
    (server,) = user.processes("virtdisk-server")
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: not user.mounts(), "the mount goes")
    holder.resume()
    assert holder.receive() in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    holder.resume()
    assert holder.receive() == pattern(SIZE)
    holder.resume()
    assert holder.receive() is None


def test_server_and_keeper_are_killed(user: User, vhd: pathlib.Path) -> None:
    """A dead mount stays; the next who looks removes it."""
    holder = user.hold(vhd)
    path = holder.receive()
    for name in ("virtdisk-keeper", "virtdisk-server"):
        (process,) = user.processes(name)
        os.kill(process, signal.SIGKILL)
    wait_for(lambda: not user.processes(), "they are dead")
    assert user.mounts() == [path]
    assert user.attached() == []
    assert user.mounts() == []
    assert user.files() == []
    assert user.do(lambda: read_raw(vhd)) == pattern(SIZE)


def test_keeper_is_killed(user: User, vhd: pathlib.Path) -> None:
    """The disk lives on, and is detached as ever."""
    holder = user.hold(vhd)
    path = holder.receive()
    (keeper,) = user.processes("virtdisk-keeper")
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: keeper not in user.processes(), "it is dead")
    assert user.do(lambda: pathlib.Path(path).read_bytes()) == pattern(SIZE)
    user.do(lambda: virtdisk.detach(vhd))
    assert user.mounts() == []
    wait_for(lambda: not user.processes(), "the server ends")
    assert not [name for name in user.files() if name.startswith("file")]
    # The empty file that is left is used again.
    again = user.do(lambda: virtdisk.attach(vhd, permanent=True).physical_path)
    assert again == path
    user.do(lambda: virtdisk.detach(vhd))


def test_end_of_the_session(user: User, vhd: pathlib.Path) -> None:
    """SIGTERM to all of a user's processes ends permanent ones too."""
    user.do(lambda: virtdisk.attach(vhd, permanent=True).physical_path)
    for process in user.processes():
        with contextlib.suppress(ProcessLookupError):  # with the one before
            os.kill(process, signal.SIGTERM)
    wait_for(lambda: not (user.mounts() or user.processes()), "the disk goes")
    assert user.attached() == []


def test_terminal_signals_do_not_end_it(user: User, vhd: pathlib.Path) -> None:
    path = user.do(lambda: virtdisk.attach(vhd, permanent=True).physical_path)
    for process in user.processes():
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.kill(process, number)
    assert user.do(lambda: pathlib.Path(path).read_bytes()) == pattern(SIZE)
    user.do(lambda: virtdisk.detach(vhd))


def test_unmounted_by_hand(user: User, vhd: pathlib.Path) -> None:
    def work() -> tuple[bool, bytes]:
        disk = virtdisk.attach(vhd)
        path = disk.physical_path
        subprocess.run(["/usr/bin/fusermount3", "-u", path], check=True)
        wait_for(lambda: not os.path.exists(path), "the keeper tidies up")
        disk.attach()
        with disk.raw() as file:
            content = file.read()
        disk.close()
        return os.path.exists(path), content

    assert user.do(work) == (False, pattern(SIZE))


def test_names_in_use_are_left_alone(user: User, vhd: pathlib.Path) -> None:
    directory = user.give_directory()
    kept = directory / "disk-1"
    kept.write_text("mine")
    user.give(kept)
    (directory / "disk-2").symlink_to(vhd)
    os.mkfifo(directory / "disk-3")
    path = user.do(lambda: virtdisk.attach(vhd, permanent=True).physical_path)
    assert path == str(directory / "disk-4")
    user.do(lambda: virtdisk.detach(vhd))
    assert kept.read_text() == "mine"
    assert user.files() == ["disk-1", "disk-2", "disk-3"]
    shutil.rmtree(directory)


# -- who may ----------------------------------------------------------------


def mode_of(image: pathlib.Path, **options: Any) -> int:
    with virtdisk.attach(image, **options) as disk:
        return stat.S_IMODE(os.stat(disk.physical_path).st_mode)


@pytest.mark.parametrize(
    ("image_mode", "read_only", "mode"),
    [(0o644, False, 0o600), (0o666, True, 0o400), (0o400, True, 0o400)],
)
def test_mode_is_the_owners_part_of_the_images(
    user: User, vhd: pathlib.Path, image_mode: int, read_only: bool, mode: int
) -> None:
    vhd.chmod(image_mode)
    assert user.do(lambda: mode_of(vhd, read_only=read_only)) == mode


def test_image_of_somebody_else(user: User) -> None:
    image = make_vhd(user.home / "roots.vhd", SIZE)
    image.chmod(0o644)
    assert user.do(lambda: mode_of(image, read_only=True)) == 0o400
    assert user.do(lambda: read_raw(image)) == pattern(SIZE)


def test_only_its_user_gets_at_it(user: User, vhd: pathlib.Path) -> None:
    path = user.do(lambda: virtdisk.attach(vhd, permanent=True).physical_path)
    with pytest.raises(PermissionError):
        pathlib.Path(path).read_bytes()
    user.do(lambda: virtdisk.detach(vhd))


@pytest.mark.parametrize(
    ("sddl", "mode"),
    [
        ("D:P(A;;GA;;;OW)", 0o600),
        ("D:P(A;;GR;;;OW)", 0o400),
        (f"O:S-1-22-1-{NOBODY}G:S-1-22-2-{NOBODY}D:P(A;;GA;;;OW)", 0o600),
        ("D:P(A;;GA;;;BA)", 0o000),
    ],
)
def test_sddl_that_can_be_expressed(
    user: User, vhd: pathlib.Path, sddl: str, mode: int
) -> None:
    assert user.do(lambda: mode_of(vhd, security=sddl)) == mode


def test_sddl_is_kept_to(user: User, vhd: pathlib.Path) -> None:
    def work() -> int:
        with virtdisk.attach(vhd, security="D:P(A;;GR;;;OW)") as disk:
            with pytest.raises(OSError) as caught:
                disk.raw("r+b")
            return caught.value.errno or 0

    assert user.do(work) == errno.EACCES


@pytest.mark.parametrize(
    "sddl",
    [
        "D:P(A;;GA;;;WD)",
        "O:S-1-22-1-0D:P(A;;GA;;;OW)",
        "G:S-1-22-2-0D:P(A;;GA;;;OW)",
        "D:P(A;;GA;;;OW)(A;;GR;;;CG)",
    ],
)
def test_sddl_that_cannot_be_expressed(
    user: User, vhd: pathlib.Path, sddl: str
) -> None:
    error = user.refused(lambda: virtdisk.attach(vhd, security=sddl))
    assert error.winerror == 50
    assert user.files() == []


# -- where it cannot be -----------------------------------------------------


def refused_for_privilege(user: User, image: pathlib.Path) -> None:
    error = user.refused(lambda: virtdisk.attach(image))
    assert error.winerror == 1314
    assert isinstance(error, PermissionError)
    for help_ in ("root", "fuse3", "XDG_RUNTIME_DIR", "NO_LOCAL_HOST"):
        assert help_ in (error.remedy or "")
    assert user.files() == []


def test_without_a_runtime_directory(user: User, vhd: pathlib.Path) -> None:
    user.environment = {}
    refused_for_privilege(user, vhd)


@pytest.mark.parametrize("value", ["", "run", "/nowhere", "/"])
def test_runtime_directory_that_is_none_of_his(
    user: User, vhd: pathlib.Path, value: str
) -> None:
    user.environment = {"XDG_RUNTIME_DIR": value}
    refused_for_privilege(user, vhd)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o710])
def test_directory_open_to_others(user: User, vhd: pathlib.Path, mode: int) -> None:
    directory = user.give_directory()
    directory.chmod(mode)
    assert user.refused(lambda: virtdisk.attach(vhd)).winerror == 5
    assert user.files() == []
    directory.chmod(0o700)


def cover_program(library: ctypes.CDLL) -> None:
    """Puts what cannot be executed over fusermount3, wherever it is."""
    for path in ("/usr/bin/fusermount3", "/bin/fusermount3"):
        if not os.path.samefile(path, "/dev/null"):
            mount(library, "/dev/null", path, MS_BIND)


def no_new_privileges(library: ctypes.CDLL) -> None:
    assert library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0


def close_fuse_device(library: ctypes.CDLL) -> None:
    """Puts a device that nobody may open over /dev/fuse."""
    node = f"/tmp/virtdisk-fuse-{os.getpid()}"
    os.mknod(node, stat.S_IFCHR | 0o600, os.stat("/dev/fuse").st_rdev)
    mount(library, node, "/dev/fuse", MS_BIND)
    os.unlink(node)


@pytest.mark.parametrize(
    "prepare", [cover_program, no_new_privileges, close_fuse_device]
)
def test_where_mounting_is_impossible(
    user: User, vhd: pathlib.Path, prepare: Callable[[ctypes.CDLL], None]
) -> None:
    refused_for_privilege(user.elsewhere(prepare), vhd)
    assert user.do(lambda: read_raw(vhd)) == pattern(SIZE)


def test_another_mount_namespace_does_not_end_it(user: User, vhd: pathlib.Path) -> None:
    """Who does not see the mount sees that the disk is attached."""

    def look() -> Iterator[object]:
        yield "there"
        with pytest.raises(virtdisk.VirtualDiskError) as attaching:
            virtdisk.attach(vhd)
        with pytest.raises(virtdisk.VirtualDiskError) as detaching:
            virtdisk.detach(vhd)
        known = str(vhd) in [image.path for image in virtdisk.attached()]
        yield attaching.value.winerror, known, detaching.value.winerror

    stranger = user.elsewhere(lambda _library: None).start(look)
    assert stranger.receive() == "there"
    path = user.hold(vhd).receive()
    stranger.resume()
    assert stranger.receive() == (32, True, 170)
    assert user.mounts() == [path]
    assert user.do(lambda: pathlib.Path(path).read_bytes()) == pattern(SIZE)


def test_root_uses_devices(user: User, vhd: pathlib.Path) -> None:
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices")
    with virtdisk.attach(vhd) as disk:
        assert disk.physical_path.startswith("/dev/loop")


# Compacting.


def test_compacted_while_it_is_read(user: User) -> None:
    """The user's own server does it for him, and the file stays the same."""
    image = user.home / "zeros.vhdx"
    size, half = 24 << 20, 12 << 20
    virtdisk.create(image, size, block_size=1 << 20).close()
    private = virtdisk.AttachFlag.NO_LOCAL_HOST
    with virtdisk.attach(image, flags=private) as disk, disk.raw("r+b") as file:
        file.write(pattern(size))
        file.seek(0)
        file.write(bytes(half))
    user.give(image)
    before = image.stat().st_size

    def compact() -> bytes:
        with virtdisk.attach(image, read_only=True) as disk:
            with virtdisk.open(image) as other:
                other.compact()
            with disk.raw() as file:
                return file.read()

    assert user.do(compact) == bytes(half) + pattern(size)[half:]
    assert before - image.stat().st_size >= half
    wait_for(user.nothing_left, "no socket stays")


def test_resized_while_it_is_used(user: User) -> None:
    """The file has another length, also for who has it open already."""
    image = make_dynamic(user, "vhdx")
    end = b"end" * 1365 + b"\n"

    def work() -> object:
        with virtdisk.attach(image) as disk:
            with open(disk.physical_path, "r+b", buffering=0) as file:
                virtdisk.open(image).resize(2 * SIZE)
                assert os.pread(file.fileno(), SIZE, 0) == pattern(SIZE)
                assert os.pread(file.fileno(), 4096, 2 * SIZE - 4096) == bytes(4096)
                os.pwrite(file.fileno(), end, 2 * SIZE - 4096)
                assert os.fstat(file.fileno()).st_size == 2 * SIZE
                disk.resize(SIZE, allow_unsafe=True)
                assert os.pread(file.fileno(), 4096, SIZE) == b""
                with pytest.raises(OSError, match="File too large"):
                    os.pwrite(file.fileno(), bytes(4096), SIZE)
                disk.resize(2 * SIZE)
                assert os.pread(file.fileno(), SIZE, SIZE) == bytes(SIZE)
                os.pwrite(file.fileno(), end, 2 * SIZE - 4096)
                os.fsync(file.fileno())
            return disk.info.virtual_size

    assert user.do(work) == 2 * SIZE
    content = user.do(lambda: read_raw(image))
    assert content == pattern(SIZE) + bytes(SIZE - 4096) + end
