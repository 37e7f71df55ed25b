"""The layers of the C sources, and that the check of them can fail."""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys
from types import ModuleType

import pytest
from support import ROOT, require_tool

SCRIPT = ROOT / "tools" / "check_layers.py"
pytestmark = pytest.mark.tree


@pytest.fixture(scope="module")
def check_layers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_layers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


ENGINE = "src/engine/"
FUNCTION = "static int\nwork(void)\n{\n    %s;\n    return 0;\n}\n"

# Rule, file, its text with the fault, line of the fault.
BROKEN = [
    ("known-place", "src/stray.c", "int x;\n", 1),
    ("known-place", ENGINE + "base/deep/a.c", "int x;\n", 1),
    ("python-in-binding", ENGINE + "api/a.c", "#include <Python.h>\n", 1),
    ("layer-order", ENGINE + "base/a.c", '\n#include "disk/disk.h"\n', 2),
    ("layer-order", ENGINE + "format/a.c", '#include "disk/disk.h"\n', 1),
    ("layer-order", ENGINE + "disk/a.c", '#include "attach/attach.h"\n', 1),
    ("layer-order", ENGINE + "disk/a.c", '#include "api/handle.h"\n', 1),
    ("layer-order", ENGINE + "attach/a.c", '#include "format/format.h"\n', 1),
    ("layer-order", ENGINE + "attach/a.c", '#  include "../api/x.h"\n', 1),
    ("layer-order", ENGINE + "api/a.c", '#include "handle.h"\n', 1),
    (
        "binding-sees-virtdisk-h",
        "src/_virtdisk.c",
        '#include "disk/disk.h"\n',
        1,
    ),
    ("win32-in-api", ENGINE + "attach/a.c", "#include <windows.h>\n", 1),
    ("win32-in-api", ENGINE + "disk/a.c", "#include <virtdisk.h>\n", 1),
    ("win32-in-api", ENGINE + "disk/a.h", "\nHANDLE x;\n", 2),
    (
        "win32-in-api",
        ENGINE + "attach/a.c",
        FUNCTION % "int f = ATTACH_VIRTUAL_DISK_FLAG_READ_ONLY",
        4,
    ),
    ("format-is-pure", ENGINE + "format/a.c", "#include <fcntl.h>\n", 1),
    ("format-is-pure", ENGINE + "format/a.c", FUNCTION % "pread(0, 0, 0, 0)", 4),
    ("no-threads-clock-random", ENGINE + "format/a.c", FUNCTION % "time(0)", 4),
    ("no-threads-clock-random", ENGINE + "base/a.c", "#include <time.h>\n", 1),
    ("no-threads-clock-random", ENGINE + "base/a.c", FUNCTION % "rand()", 4),
    (
        "one-table",
        ENGINE + "disk/a.c",
        FUNCTION % "const void *f = &vd_iso_format",
        4,
    ),
    (
        "one-table",
        ENGINE + "attach/attach.c",
        FUNCTION % "const void *f = &vd_loop_surface",
        4,
    ),
    ("no-goto", ENGINE + "api/a.c", FUNCTION % "goto out", 4),
    (
        "gnu-extensions",
        ENGINE + "disk/a.c",
        FUNCTION % "__builtin_trap()",
        4,
    ),
    (
        "gnu-extensions",
        ENGINE + "disk/a.c",
        FUNCTION % "int x = ({ 1; })",
        4,
    ),
    (
        "gnu-extensions",
        "src/_virtdisk.c",
        "static int x __attribute__((unused));\n",
        1,
    ),
    (
        "close-on-exec",
        ENGINE + "attach/a.c",
        FUNCTION % "f(O_CLOEXEC)" + FUNCTION % 'int fd =\n        open("/x", 0)',
        11,
    ),
    ("unsafe-calls", ENGINE + "base/a.c", FUNCTION % "strcpy(a, b)", 4),
    ("unsafe-calls", ENGINE + "attach/a.c", FUNCTION % 'system("id")', 4),
    ("unsafe-calls", ENGINE + "attach/a.c", FUNCTION % "fd = dup(1)", 4),
    ("short-functions", ENGINE + "api/a.c", FUNCTION % ("f();\n" * 60), 2),
    ("exported-names", ENGINE + "disk/a.c", "int\nwork(void)\n{\n}\n", 2),
]

# The same words where they are no fault.
SOUND = {
    "src/_virtdisk.c": "#include <Python.h>\n#include <windows.h>\n"
    '#include <virtdisk.h>\n#include "_virtdisk_types.h"\n'
    "PyDoc_STRVAR(doc,\n" + '"x"\n' * 60 + ");\n" + FUNCTION % "f()",
    ENGINE + "api/a.c": '#include <virtdisk.h>\n#include "attach/attach.h"\n'
    "HANDLE\nOpenIt(DWORD flags)\n{\n}\n",
    ENGINE + "format/iso.c": '/* #include <fcntl.h>\n#include "disk/x.h" */\n'
    '#include "base/file.h"\n'
    "const struct vd_format vd_iso_format = { .open = 0 };\n"
    + FUNCTION % "image->format = &vd_iso_format; // goto, time(0)"
    + FUNCTION % 'file->ops->pread(file); say("HANDLE, system(1)")',
    ENGINE + "format/formats.c": "const void *const table[] = "
    "{ &vd_iso_format, &vd_vhd_format };\n",
    ENGINE + "base/cleanup.h": "#include <pthread.h>\n"
    "#define VD_TAKE(p) ({ __typeof__(p) t = (p); t; })\n",
    ENGINE + "attach/loop.c": FUNCTION
    % 'open("/x",\n        (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC)'
    + FUNCTION % "int flags = O_CLOEXEC;\n    fd = openat(dirfd, path, flags)"
    + FUNCTION % "bool w = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR"
    + FUNCTION % ("f();\n" * 50),
    ENGINE + "disk/a.c": "vd_error\nvd_disk_open(int fd)\n{\n}\n",
}


def _write(root: pathlib.Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_tree_keeps_its_layers(check_layers: ModuleType) -> None:
    assert list(map(str, check_layers.check(ROOT))) == []


@pytest.mark.parametrize(
    ("rule", "name", "text", "line"),
    BROKEN,
    ids=[f"{number}-{row[0]}" for number, row in enumerate(BROKEN)],
)
def test_fault_is_found(
    rule: str,
    name: str,
    text: str,
    line: int,
    check_layers: ModuleType,
    tmp_path: pathlib.Path,
) -> None:
    _write(tmp_path, name, text)
    found = check_layers.check(tmp_path)
    assert [(v.rule, v.path, v.line) for v in found if v.rule == rule] == [
        (rule, name, line)
    ]


def test_sound_tree_passes(check_layers: ModuleType, tmp_path: pathlib.Path) -> None:
    for name, text in SOUND.items():
        _write(tmp_path, name, text)
    assert list(map(str, check_layers.check(tmp_path))) == []


def test_every_rule_is_shown_to_fail(check_layers: ModuleType) -> None:
    assert {row[0] for row in BROKEN} == set(check_layers.RULES)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("int\nvd_work(void)\n{\n}\n", 0, "1 files, "),
        ("#include <windows.h>\n", 1, "src/engine/base/a.c:1: win32-in-api: "),
    ],
    ids=["sound", "broken"],
)
def test_command(text: str, code: int, said: str, tmp_path: pathlib.Path) -> None:
    _write(tmp_path, ENGINE + "base/a.c", text)
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stdout.startswith(said)


def test_command_refuses_a_tree_without_sources(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no C sources" in done.stderr


# All that lives at file scope and changes.
GLOBALS = {
    "api/handles.c": {"table"},
    "api/last_error.c": {"last_error"},  # one per thread
    "attach/held.c": {"held"},
    "base/trace.c": {"trace_mask"},
    # The server is a process of its own for one disk.
    "server/fuse_operations.c": {"count"},
    "server/log.c": {"log_socket"},
    "server/server.c": {"partial"},
}


@pytest.mark.parametrize(
    "source",
    sorted((ROOT / "src" / "engine").rglob("*.c")),
    ids=lambda path: path.relative_to(ROOT / "src" / "engine").as_posix(),
)
def test_no_globals(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """What the compiler puts into .data and .bss is what is listed above.

    Without -fno-pic a constant table of addresses would be there as well.
    """
    gcc = require_tool("gcc", package="gcc")
    nm = require_tool("nm", package="binutils")
    includes = [f"-I{ROOT}/src/engine/include", f"-I{ROOT}/src/engine"]
    subprocess.run(
        [
            gcc,
            "-std=c11",
            "-fno-pic",
            "-D_GNU_SOURCE",
            *includes,
            "-c",
            source,
            "-o",
            "a.o",
        ],
        check=True,
        cwd=tmp_path,
    )
    listed = subprocess.run(
        [nm, "a.o"], check=True, cwd=tmp_path, capture_output=True, text=True
    ).stdout
    variables = {
        line.split()[-1].partition(".")[0]  # gcc numbers those inside functions
        for line in listed.splitlines()
        if line.split()[-2] in "bBdDC"
    }
    name = source.relative_to(ROOT / "src" / "engine").as_posix()
    assert variables == GLOBALS.get(name, set())
