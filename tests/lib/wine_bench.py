"""Builds the extension for Windows and runs it there, under Wine.

What is built and run is described in tests/wine/README.md.  Everything
that does not depend on the project (CPython for Windows, pytest, compilers
from PyPI, the Wine prefix) is kept in a cache outside the tree; everything
that does is built anew by every session in a directory of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pathlib
import platform
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Final

from support import ROOT, missing, require_tool

HERE: Final = ROOT / "tests/wine"
INCLUDE: Final = ROOT / "src/engine/include"
# Of our headers, those that are for Windows too; windows.h is the compiler's.
HEADERS: Final = ("virtdisk.h", "winerror_vhd.h")
VERSION: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"
PYTHON_DLL: Final = f"python{sys.version_info[0]}{sys.version_info[1]}"
ABI_FLOOR: Final = 11

# Warnings are errors, as in every build of the project.
WARNINGS: Final = (
    "-std=c11",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Werror",
)
# What setup.py defines on Windows, but for its version.
DEFINES: Final = ("-DPy_LIMITED_API=0x030b0000", "-DWIN32_LEAN_AND_MEAN=1")
WINDOWS_10: Final = "-D_WIN32_WINNT=0x0A00"

# What VirtDisk.lib of Windows 8 exports (API.md 1.2), and nothing younger:
# an import of a missing function would keep the extension from loading.
VIRTDISK_EXPORTS: Final = (
    "AddVirtualDiskParent",
    "AttachVirtualDisk",
    "BreakMirrorVirtualDisk",
    "CompactVirtualDisk",
    "CreateVirtualDisk",
    "DeleteVirtualDiskMetadata",
    "DetachVirtualDisk",
    "EnumerateVirtualDiskMetadata",
    "ExpandVirtualDisk",
    "GetAllAttachedVirtualDiskPhysicalPaths",
    "GetStorageDependencyInformation",
    "GetVirtualDiskInformation",
    "GetVirtualDiskMetadata",
    "GetVirtualDiskOperationProgress",
    "GetVirtualDiskPhysicalPath",
    "MergeVirtualDisk",
    "MirrorVirtualDisk",
    "OpenVirtualDisk",
    "ResizeVirtualDisk",
    "SetVirtualDiskInformation",
    "SetVirtualDiskMetadata",
)

# How the sources of the double are named that an older Windows lacks.
NEWER_THAN_WINDOWS_8: Final = "windows10"

# Of the standard library, what neither the product nor pytest needs.
LIB_UNUSED: Final = shutil.ignore_patterns(
    "__pycache__",
    "config-*",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib-dynload",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
)


def run(
    *command: str | os.PathLike[str], environment: Mapping[str, str] | None = None
) -> str:
    """Runs a program to its end.

    Args:
        command: The program and its arguments.
        environment: Its variables; None: those of this process.

    Returns:
        What it wrote to standard output.

    Raises:
        RuntimeError: With all it wrote, if it failed.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        words = " ".join(os.fspath(word) for word in command)
        raise RuntimeError(f"{words}\n{done.stdout}{done.stderr}")
    return done.stdout


# --- the cache ---------------------------------------------------------------


def cache_directory() -> pathlib.Path:
    """Where downloads and the Wine prefix are kept between sessions."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(base, "virtdisk-wine")
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        missing(f"no place for downloads (set XDG_CACHE_HOME): {error}")
    return path


@contextlib.contextmanager
def locked(directory: pathlib.Path) -> Iterator[None]:
    """One session at a time: the prefix has one set of drive letters."""
    with open(directory / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cached(
    cache: pathlib.Path,
    name: str,
    key: str,
    make: Callable[[pathlib.Path], None],
) -> pathlib.Path:
    """A directory of the cache, made if it is not there.

    Args:
        cache: The cache.
        name: Says to a person what it is.
        key: Whatever the content depends on.
        make: Fills an empty directory.

    Returns:
        The directory, complete: it gets its name only then.
    """
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    final = cache / f"{name}-{digest}"
    if not final.exists():
        new = pathlib.Path(tempfile.mkdtemp(dir=cache, prefix=f"{name}-new-"))
        try:
            make(new)
            new.rename(final)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return final


def pip(*arguments: str | os.PathLike[str]) -> None:
    """Runs pip; a download that fails is a missing requirement."""
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    try:
        run(*command, "--quiet", *arguments)
    except RuntimeError as error:
        missing(f"pip could not fetch from PyPI: {error}")


def pinned(
    cache: pathlib.Path,
    name: str,
    arguments: Sequence[str] = (),
) -> pathlib.Path:
    """The packages of a hash-pinned requirements file, unpacked."""
    requirements = HERE / f"requirements-{name}.txt"

    def make(directory: pathlib.Path) -> None:
        pip(
            "install",
            "--require-hashes",
            "--no-deps",
            "--no-compile",
            *("--target", directory),
            *("-r", requirements),
            *arguments,
        )

    return cached(cache, name, requirements.read_text(), make)


# --- CPython for Windows -----------------------------------------------------


def unpack_python(wheel: pathlib.Path, directory: pathlib.Path) -> None:
    """Takes the PSF's DLL and extension modules out of Panda3D's wheel.

    Microsoft's run-time libraries stay in the wheel: Wine has its own.
    """
    (directory / "DLLs").mkdir()
    libraries = ("libffi-", "libcrypto-", "libssl-", "sqlite3")
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            folder, _, base = name.partition("/")
            # The free-threaded builds; and what ends the process on Wine.
            if folder != "deploy_libs" or "t-win_amd64" in base or base == "_wmi.pyd":
                continue
            if base == f"{PYTHON_DLL}.dll":
                (directory / base).write_bytes(archive.read(name))
            elif base.endswith(".pyd") or base.startswith(libraries):
                (directory / "DLLs" / base).write_bytes(archive.read(name))


def windows_python(cache: pathlib.Path) -> pathlib.Path:
    """python3XX.dll, DLLs/ and the host's own Lib/ of the same version."""
    requirements = HERE / "requirements-windows-python.txt"

    def make(directory: pathlib.Path) -> None:
        with tempfile.TemporaryDirectory() as download:
            pip(
                "download",
                "--require-hashes",
                "--no-deps",
                "--only-binary=:all:",
                *("--platform", "win_amd64", "--implementation", "cp"),
                *("--python-version", VERSION),
                *("-d", download),
                *("-r", requirements),
            )
            (wheel,) = pathlib.Path(download).glob("*.whl")
            unpack_python(wheel, directory)
        library = sysconfig.get_path("stdlib")
        shutil.copytree(library, directory / "Lib", ignore=LIB_UNUSED)

    key = requirements.read_text() + sys.version
    return cached(cache, f"python-{VERSION}", key, make)


def exported_names(library: pathlib.Path) -> set[str]:
    """The names a 64-bit DLL exports."""
    image = library.read_bytes()
    (header,) = struct.unpack_from("<I", image, 0x3C)
    sections, optional = struct.unpack_from("<H12xH", image, header + 6)
    table = [
        struct.unpack_from("<IIII", image, header + 24 + optional + 40 * i + 8)
        for i in range(sections)
    ]

    def offset(address: int) -> int:
        for size, start, raw_size, raw in table:
            if start <= address < start + max(size, raw_size):
                return int(address - start + raw)
        raise ValueError(f"address {address:#x} lies in no section")

    def name(address: int) -> str:
        start = offset(address)
        return image[start : image.index(b"\0", start)].decode("ascii")

    directory = offset(struct.unpack_from("<I", image, header + 24 + 112)[0])
    (count,) = struct.unpack_from("<I", image, directory + 24)
    (names,) = struct.unpack_from("<I", image, directory + 32)
    addresses = struct.unpack_from(f"<{count}I", image, offset(names))
    return {name(address) for address in addresses}


def stable_abi(
    packages: pathlib.Path, minor: int, exported: set[str]
) -> tuple[list[str], list[str]]:
    """Functions and data of the limited API of 3.minor in a DLL."""
    program = (
        "import sys; from abi3info import DATAS, FUNCTIONS\n"
        "from abi3info.models import PyVersion\n"
        "for table in FUNCTIONS, DATAS:\n"
        "    print(*(item.symbol.name for item in table.values()"
        "        if item.added <= PyVersion(3, int(sys.argv[1]))))"
    )
    text = run(
        *(sys.executable, "-c", program, str(minor)),
        environment={**os.environ, "PYTHONPATH": os.fspath(packages)},
    )
    functions, data = text.splitlines()
    return (
        sorted(exported & set(functions.split())),
        sorted(exported & set(data.split())),
    )


def sources() -> list[pathlib.Path]:
    """The files of the extension module on Windows: no engine."""
    return sorted((ROOT / "src").glob("_virtdisk*.c"))


class Bench:
    """A Windows tree with Python, the extension and the recording double.

    Attributes:
        stage: Drive P:, the tree.
        old: The same as an older Windows has it.
        work: Drive W:, where results are written.
    """

    def __init__(self, cache: pathlib.Path, directory: pathlib.Path) -> None:
        """Makes an empty bench in an empty directory."""
        if platform.machine() != "x86_64":
            missing(f"Wine runs x64 programs on x86-64, not {platform.machine()}")
        self.cache = cache
        self.stage = directory / "stage"
        self.old = directory / "old"
        self.work = directory / "work"
        self.libraries = directory / "lib"
        self.include = directory / "include"
        for path in (
            self.stage,
            self.old,
            self.work,
            self.libraries,
            self.include,
        ):
            path.mkdir()
        tool = "x86_64-w64-mingw32-"
        package = "gcc-mingw-w64-x86-64-win32"
        self.gcc = require_tool(f"{tool}gcc", package=package)
        self.dlltool = require_tool(f"{tool}dlltool", package=package)
        self.windres = require_tool(f"{tool}windres", package=package)
        self.objdump = require_tool(f"{tool}objdump", package=package)
        self.wine = require_tool("wine", package="wine")
        self.wineserver = require_tool("wineserver", package="wine")

    # -- building --

    def build(self) -> None:
        """Makes the whole tree."""
        self.lay_out_python()
        copy_headers(self.include)
        self.build_python()
        self.build_doubles()
        self.build_extension()
        self.lay_out_old()

    def lay_out_python(self) -> None:
        """The parts that are not compiled here."""
        python = windows_python(self.cache)
        for name in ("Lib", "DLLs"):
            (self.stage / name).symlink_to(python / name)
        (self.stage / "site").symlink_to(pinned(self.cache, "guest"))
        shutil.copy(python / f"{PYTHON_DLL}.dll", self.stage)
        # Exactly these folders, PYTHON* ignored, no site.py.
        path = "Lib\nDLLs\nsite\napp\n"
        (self.stage / f"{PYTHON_DLL}._pth").write_text(path)
        shutil.copytree(
            HERE / "guest",
            self.stage / "tests",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        shutil.copy(ROOT / "tests/abi/vhd_abi.json", self.stage / "tests")

    def link(self, *arguments: str | os.PathLike[str]) -> None:
        """Compiles and links with Debian's cross compiler."""
        run(self.gcc, "-O2", "-s", "-static-libgcc", WINDOWS_10, *arguments)

    def import_library(
        self, dll: str, functions: Sequence[str], data: Sequence[str] = ()
    ) -> None:
        """Makes lib<dll>.a from names alone."""
        definition = self.libraries / f"{dll}.def"
        lines = (f'LIBRARY "{dll}.dll"', "EXPORTS", *functions)
        data_lines = (f"{name} DATA" for name in data)
        definition.write_text("\n".join((*lines, *data_lines, "")))
        run(
            *(self.dlltool, "-d", definition),
            *("-l", self.libraries / f"lib{dll}.a"),
        )

    def build_python(self) -> None:
        """python.exe, and python3.dll that forwards to python3XX.dll."""
        source = HERE / "python"
        resource = self.libraries / "python.o"
        run(self.windres, "-I", source, source / "python.rc", resource)
        self.import_library(PYTHON_DLL, ["Py_Main"])
        self.link(
            *(*WARNINGS, "-municode", "-o", self.stage / "python.exe"),
            *(source / "python_main.c", resource),
            *(f"-L{self.libraries}", f"-l{PYTHON_DLL}"),
        )
        exported = exported_names(self.stage / f"{PYTHON_DLL}.dll")
        packages = pinned(self.cache, "host")
        self.forward(*stable_abi(packages, sys.version_info[1], exported))
        # The extension is linked against what its oldest Python has.
        floor = stable_abi(packages, ABI_FLOOR, exported)
        self.import_library("python3", *floor)

    def forward(self, functions: list[str], data: list[str]) -> None:
        """python3.dll, all of whose exports are forwarders."""
        definition = self.libraries / "forward.def"
        lines = [f"{name}={PYTHON_DLL}.{name}" for name in functions]
        lines += [f"{name}={PYTHON_DLL}.{name} DATA" for name in data]
        text = "\n".join(('LIBRARY "python3.dll"', "EXPORTS", *lines, ""))
        definition.write_text(text)
        empty = self.libraries / "empty.c"
        empty.write_text("extern int unused;\n")
        self.link(
            *("-shared", "-nostdlib", "-Wl,-e,0"),
            *("-o", self.stage / "python3.dll", empty, definition),
        )

    def compile(
        self, sources: Sequence[pathlib.Path], *flags: str | os.PathLike[str]
    ) -> list[pathlib.Path]:
        """Makes an object of each source, several at a time."""

        def make(source: pathlib.Path) -> pathlib.Path:
            result = self.libraries / f"{source.stem}.o"
            run(
                *(self.gcc, "-O2", WINDOWS_10, *WARNINGS, *DEFINES, *flags),
                *("-c", source, "-o", result),
            )
            return result

        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(make, sources))

    def build_doubles(self) -> None:
        """The recording virtdisk.dll: of today, and of an older Windows."""
        objects = self.compile(sorted((HERE / "double").glob("*.c")))
        newer = NEWER_THAN_WINDOWS_8
        older = [path for path in objects if not path.name.startswith(newer)]
        for stage, parts in ((self.stage, objects), (self.old, older)):
            dll = stage / "virtdisk.dll"
            self.link("-shared", "-o", dll, *parts, "-ladvapi32")

    def lay_out_old(self) -> None:
        """All of the tree but the recording virtdisk.dll."""
        for path in self.stage.iterdir():
            if path.name != "virtdisk.dll":
                (self.old / path.name).symlink_to(path)

    def build_extension(self) -> None:
        """The package, with the extension module built for Windows."""
        package = self.stage / "app" / "virtdisk"
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
        shutil.copytree(ROOT / "virtdisk", package, ignore=ignored)
        self.import_library("virtdisk", VIRTDISK_EXPORTS)
        objects = self.compile(
            sources(),
            *("-I", self.include / "virtdisk"),
            *("-isystem", self.include / "python"),
        )
        self.link(
            *("-shared", "-o", package / "_virtdisk.pyd"),
            *objects,
            *(f"-L{self.libraries}", "-lpython3", "-lvirtdisk", "-ladvapi32"),
        )

    def imported_libraries(self) -> set[str]:
        """The DLLs that the extension module cannot be loaded without."""
        module = self.stage / "app/virtdisk/_virtdisk.pyd"
        text = run(self.objdump, "-p", module)
        return {name.lower() for name in re.findall(r"DLL Name: (.+)", text)}

    # -- running --

    def prefix(self) -> pathlib.Path:
        """The Wine prefix, without a drive that shows the whole host."""

        def make(directory: pathlib.Path) -> None:
            environment = self.environment(directory)
            run(self.wine, "wineboot", "-i", environment=environment)
            # By default Wine poses as Windows 7, which knows no VHDX.
            version = ("/v", "Version", "/t", "REG_SZ", "/d", "win10", "/f")
            key = r"HKCU\Software\Wine"
            run(self.wine, "reg", "add", key, *version, environment=environment)
            run(self.wineserver, "-w", environment=environment)
            (directory / "dosdevices/z:").unlink()

        return cached(self.cache, "prefix", run(self.wine, "--version"), make)

    @staticmethod
    def environment(prefix: pathlib.Path, dll: str = "n") -> dict[str, str]:
        """The variables Wine runs with; no display, no questions."""
        ours = ("HOME", "PATH", "USER")
        return {
            **{name: os.environ[name] for name in ours if name in os.environ},
            "LC_ALL": "C.UTF-8",
            "WINEPREFIX": os.fspath(prefix),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": (
                f"mscoree=;mshtml=;winemenubuilder.exe=d;virtdisk={dll}"
            ),
        }

    def python(
        self,
        *arguments: str,
        dll: str = "n",
        stage: pathlib.Path | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Runs the Windows Python.

        Args:
            arguments: Its arguments.
            dll: Whose virtdisk.dll is loaded: "n" the double, "b" Wine's.
            stage: The tree that is drive P:; None: the one of today.
            environment: Variables for the guest.

        Returns:
            Its exit status and output.
        """
        prefix = self.prefix()
        for letter, target in (("p:", stage or self.stage), ("w:", self.work)):
            drive = prefix / "dosdevices" / letter
            drive.unlink(missing_ok=True)
            drive.symlink_to(target)
        wine = self.environment(prefix, dll)
        guest = {"TMP": "W:\\", "TEMP": "W:\\", **environment}
        try:
            # Standard streams must be pipes or null: CPython cannot use a
            # regular file there on Wine.
            return subprocess.run(
                (self.wine, r"P:\python.exe", "-B", *arguments),
                cwd=self.work,
                env={**wine, **guest},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=900,
                check=False,
            )
        finally:
            # Only this prefix's processes; there may be none.
            subprocess.run((self.wineserver, "-k"), env=wine, check=False)

    def pytest(self, name: str) -> subprocess.CompletedProcess[str]:
        """Runs a folder of guest tests; results go to W:\\<name>.xml."""
        return self.python(
            *("-m", "pytest", "-q", "-c", rf"P:\tests\{name}\pytest.ini"),
            *(rf"--junitxml=W:\{name}.xml", rf"--basetemp=W:\{name}-temp"),
            rf"P:\tests\{name}",
            dll="b" if name == "stub" else "n",
            stage=self.old if name == "old" else self.stage,
            DOUBLE_LOG=rf"W:\{name}-calls.jsonl",
        )


def copy_headers(include: pathlib.Path) -> None:
    """Python's headers with our pyconfig.h, and our virtdisk.h alone.

    A copy, since Python.h finds the pyconfig.h beside itself first; and our
    windows.h must not hide the compiler's.
    """
    headers = pathlib.Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        missing("Python.h is not installed (Debian package python3-dev)")
    ignored = shutil.ignore_patterns("internal", "pyconfig*.h")
    shutil.copytree(headers, include / "python", ignore=ignored)
    shutil.copy(HERE / "python/pyconfig.h", include / "python")
    (include / "virtdisk").mkdir()
    for name in HEADERS:
        shutil.copy(INCLUDE / name, include / "virtdisk")


# --- compiling for the other targets -----------------------------------------


class Zig:
    """Clang for the Windows targets that Debian has no compiler for."""

    def __init__(self, cache: pathlib.Path, directory: pathlib.Path) -> None:
        """Fetches it; headers and objects go to an empty directory."""
        packages = pinned(cache, "zig")
        self.program = packages / "ziglang/zig"
        self.builtins = packages / "ziglang/lib/include"
        self.directory = directory
        self.cache = os.fspath(cache / "zig-objects")
        copy_headers(directory)

    def compile(self, sources: Sequence[pathlib.Path], target: str) -> None:
        """Compiles files for a target such as "x86-windows-msvc"."""
        flags = self.msvc_flags() if target.endswith("-msvc") else []
        environment = {
            **os.environ,
            "ZIG_GLOBAL_CACHE_DIR": self.cache,
            "ZIG_LOCAL_CACHE_DIR": self.cache,
        }

        def make(source: pathlib.Path) -> None:
            run(
                *(self.program, "cc", "-target", target, *WARNINGS, *DEFINES),
                *flags,
                *("-I", self.directory / "virtdisk"),
                *("-isystem", self.directory / "python"),
                *("-c", source, "-o", self.directory / f"{source.stem}.o"),
                environment=environment,
            )

        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(make, sources))

    def msvc_flags(self) -> list[str | os.PathLike[str]]:
        """Microsoft's ABI and language, by the headers of Wine's SDK."""
        sdk = pathlib.Path("/usr/include/wine/wine")
        if not (sdk / "windows/windows.h").exists():
            missing("Wine's SDK is not installed (Debian package libwine-dev)")
        return [
            *("-nostdinc", "-isystem", self.builtins),
            *("-isystem", sdk / "msvcrt", "-isystem", sdk / "windows"),
            *("-fms-extensions", "-fms-compatibility"),
            *("-fms-compatibility-version=19.40", "-Wgnu", "-Wvla"),
            # What Microsoft's sal.h has and Wine's lacks.
            *(WINDOWS_10, "-D_Inout_updates_bytes_to_(size,count)="),
        ]
