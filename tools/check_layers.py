#!/usr/bin/env python3
"""Checks that the C sources keep the layers that ARCHITECTURE.md draws.

Reads `#include` lines and identifiers of src/, with comments and strings
blanked; it does not preprocess, compile or link.  Prints one line per
violation, `path:line: rule: what`, and exits 1 if there are any:

    python tools/check_layers.py [repository root]
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: What each layer of src/engine/ may include, itself among it.
LAYERS: dict[str, frozenset[str]] = {
    "base": frozenset({"base"}),
    "format": frozenset({"base", "format"}),
    "disk": frozenset({"base", "format", "disk"}),
    "server": frozenset({"base", "disk", "server"}),
    "attach": frozenset({"base", "disk", "server", "attach"}),
    "api": frozenset({"base", "format", "disk", "attach", "api"}),
    "include": frozenset(),
}
BINDING = "binding"
WIN32_HEADERS = frozenset({"windows.h", "virtdisk.h"})

#: All that pure logic needs of the C library.
FORMAT_HEADERS = frozenset(
    {
        "assert.h",
        "inttypes.h",
        "limits.h",
        "stdatomic.h",
        "stdbool.h",
        "stddef.h",
        "stdint.h",
        "stdlib.h",
        "string.h",
        "uchar.h",
        "winerror.h",
    }
)
IMPURE_HEADERS = frozenset(
    {"pthread.h", "sys/random.h", "sys/time.h", "threads.h", "time.h"}
)
#: base/cleanup.h defines the scoped lock that the layers above use.
LOCK_HEADER = "src/engine/base/cleanup.h"

IMPURE_CALLS = re.compile(
    r"(?:pthread_\w+|thrd_\w+|time|clock|clock_gettime|gettimeofday|random"
    r"|rand|getrandom|getentropy|arc4random\w*)"
)
FILE_CALLS = re.compile(
    r"(?:open|openat|creat|close|read|write|pread|pwrite|preadv|pwritev"
    r"|lseek|fstat|fsync|fdatasync|ftruncate|fallocate|mmap|ioctl|fcntl"
    r"|fopen|getenv)"
)
UNSAFE_CALLS = re.compile(
    r"(?:system|popen|gets|strcpy|strcat|sprintf|vsprintf|alloca|tmpnam"
    r"|mktemp|tempnam|tmpfile|creat|dup|pipe|accept|epoll_create"
    r"|inotify_init|atoi|atol|strtok|readdir_r)"
)
CALL = re.compile(r"(?<![\w.>])([A-Za-z_]\w*)\s*\(")

WIN32_NAMES = re.compile(
    r"\b(?:HANDLE|DWORD|ULONG|BOOL|LPCWSTR|PCWSTR|PWSTR|LPWSTR|WCHAR"
    r"|(?:LP)?OVERLAPPED|P?SECURITY_DESCRIPTOR"
    r"|(?:ATTACH|DETACH|OPEN|CREATE|GET|SET)_VIRTUAL_DISK_\w+"
    r"|VIRTUAL_DISK_ACCESS_\w+)\b"
)
GNU_EXPRESSIONS = re.compile(r"__builtin_\w+|\b__?typeof__?\b|\btypeof\b|\(\{")
GNU_FILES = frozenset({LOCK_HEADER, "src/engine/base/checked.h"})

CLOEXEC_CALLS = re.compile(
    r"(?:open|openat|eventfd|socket|socketpair|accept4|pipe2|dup3|mkostemp"
    r"|memfd_create|epoll_create1|timerfd_create|signalfd|inotify_init1)"
)
TABLE_ENTRY = re.compile(r"&\s*(vd_\w+_(format|surface))\b(?!\s*\()")
MAX_FUNCTION_LINES = 60

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+([<"])([^>"]+)[>"]', re.MULTILINE)
TOKEN = re.compile(
    r"(/\*.*?\*/|//[^\n]*)|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL
)


def blank(text: str, *, literals: bool) -> str:
    """The text with comments, and perhaps literals, as spaces."""

    def spaces(match: re.Match[str]) -> str:
        if match[1] or literals:
            return re.sub(r"[^\n]", " ", match.group())
        return match.group()

    return TOKEN.sub(spaces, text)


@dataclass(frozen=True)
class Source:
    """A C file, its layer, and its text."""

    path: str
    layer: str
    text: str  # without comments
    code: str  # without comments and literals

    @classmethod
    def load(cls, root: pathlib.Path, path: pathlib.Path) -> Source:
        """Reads a file below the root."""
        text = path.read_text(encoding="utf-8")
        relative = path.relative_to(root).as_posix()
        return cls(
            relative,
            layer_of(relative),
            blank(text, literals=False),
            blank(text, literals=True),
        )

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.rpartition("/")[2]

    def line(self, position: int) -> int:
        """The line, from 1, of a position in the text."""
        return self.text.count("\n", 0, position) + 1

    def includes(self) -> Iterator[tuple[int, bool, str]]:
        """Line, whether with angle brackets, and name of each #include."""
        for match in INCLUDE.finditer(self.text):
            yield self.line(match.start(1)), match[1] == "<", match[2]

    def calls(self, names: re.Pattern[str]) -> Iterator[tuple[int, str]]:
        """Line and name of each call, but of a method, of these functions."""
        for match in CALL.finditer(self.code):
            if names.fullmatch(match[1]):
                yield self.line(match.start()), match[1]

    def names(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
        """Line and text of each match outside comments and literals."""
        for match in pattern.finditer(self.code):
            yield self.line(match.start()), match.group()


@dataclass(frozen=True)
class Violation:
    """A rule that a line of a file breaks."""

    path: str
    line: int
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.what}"


def layer_of(path: str) -> str:
    """The layer of a path below the root; empty if it has none."""
    parts = path.split("/")
    if parts[:2] == ["src", "engine"] and len(parts) == 4:
        return parts[2] if parts[2] in LAYERS else ""
    if len(parts) == 2 and re.fullmatch(r"_virtdisk\w*\.[ch]", parts[1]):
        return BINDING
    return ""


Found = Iterator[tuple[int, str]]
Check = Callable[[Source], Found]
RULES: dict[str, Check] = {}


def rule(check: Check) -> Check:
    """Registers a check under the name that reports give it."""
    RULES[check.__name__.replace("_", "-")] = check
    return check


@rule
def known_place(source: Source) -> Found:
    """Every C file is the binding's or lies in one of the layers."""
    if not source.layer:
        yield 1, "belongs to no layer"


@rule
def python_in_binding(source: Source) -> Found:
    """Only the binding includes Python.h."""
    for line, _, name in source.includes():
        if name == "Python.h" and source.layer != BINDING:
            yield line, "Python.h outside the binding"


@rule
def layer_order(source: Source) -> Found:
    """base <- format <- disk <- attach <- api, and attach/ skips format/."""
    if source.layer not in LAYERS or source.layer == "include":
        return
    for line, angled, name in source.includes():
        if angled:
            continue
        folder, _, rest = name.partition("/")
        if not rest:
            yield line, f'"{name}" does not name its layer'
        elif folder not in LAYERS[source.layer]:
            yield line, f'{source.layer}/ includes "{name}"'


@rule
def binding_sees_virtdisk_h(source: Source) -> Found:
    """The binding includes none of the engine but windows.h, virtdisk.h."""
    if source.layer != BINDING:
        return
    for line, angled, name in source.includes():
        if not angled and not re.fullmatch(r"_virtdisk\w*\.h", name):
            yield line, f'the binding includes "{name}"'


@rule
def win32_in_api(source: Source) -> Found:
    """Only api/ knows Win32 handles, types, flags and masks."""
    if source.layer in ("api", "include", BINDING):
        return
    for line, _, name in source.includes():
        if name in WIN32_HEADERS:
            yield line, f"<{name}> below api/"
    for line, name in source.names(WIN32_NAMES):
        yield line, f"{name} below api/"


@rule
def format_is_pure(source: Source) -> Found:
    """Formats touch files through struct vd_file alone."""
    if source.layer != "format":
        return
    for line, angled, name in source.includes():
        if angled and name not in FORMAT_HEADERS:
            yield line, f"format/ includes <{name}>"
    for line, name in source.calls(FILE_CALLS):
        yield line, f"format/ calls {name}()"


@rule
def no_threads_clock_random(source: Source) -> Found:
    """base/ and format/ know no threads, clock or random numbers."""
    if source.layer not in ("base", "format") or source.path == LOCK_HEADER:
        return
    for line, _, name in source.includes():
        if name in IMPURE_HEADERS:
            yield line, f"{source.layer}/ includes <{name}>"
    for line, name in source.calls(IMPURE_CALLS):
        yield line, f"{source.layer}/ calls {name}()"


@rule
def one_table(source: Source) -> Found:
    """formats.c lists the formats, surfaces.c the surfaces; nobody else."""
    for match in TABLE_ENTRY.finditer(source.code):
        name, kind = match.groups()
        defined = re.search(rf"\bstruct vd_{kind} {name}\s*=", source.code)
        if not defined and source.name != f"{kind}s.c":
            yield source.line(match.start()), f"{name} outside {kind}s.c"


@rule
def no_goto(source: Source) -> Found:
    """The engine cleans up by scope (base/cleanup.h)."""
    if source.layer in LAYERS:
        for line, _ in source.names(re.compile(r"\bgoto\b")):
            yield line, "goto"


@rule
def gnu_extensions(source: Source) -> Found:
    """GNU expressions stay in base/cleanup.h and base/checked.h."""
    if source.path in GNU_FILES:
        return
    for line, name in source.names(GNU_EXPRESSIONS):
        yield line, f"{name} outside cleanup.h and checked.h"
    if source.path.endswith(".c"):
        for line, name in source.names(re.compile(r"\b__attribute__\b")):
            yield line, f"{name} in a .c file"


@rule
def close_on_exec(source: Source) -> Found:
    """Whatever is opened is closed on exec: the function says CLOEXEC."""
    lines = source.code.split("\n")
    for line, name in source.calls(CLOEXEC_CALLS):
        start = next((i for i in range(line - 1, 0, -1) if lines[i][:1] == "}"), 0)
        end = next((i for i in range(line, len(lines)) if lines[i][:1] == "}"), None)
        if not any("CLOEXEC" in text for text in lines[start:end]):
            yield line, f"{name}() without CLOEXEC"


@rule
def unsafe_calls(source: Source) -> Found:
    """No call that cannot be used safely, or has a *_CLOEXEC twin."""
    for line, name in source.calls(UNSAFE_CALLS):
        yield line, f"{name}()"


def functions(source: Source) -> Iterator[tuple[int, str, bool, int]]:
    """Line, name, whether static, and length in lines of each function.

    Relies on .clang-format: a function's name and its braces stand at the
    start of their lines, its type on the line before.
    """
    lines = source.code.split("\n")
    for number, text in enumerate(lines, 1):
        match = re.match(r"([A-Za-z_]\w*)\(", text)
        if not match:
            continue
        head = number - 1
        while head < len(lines) and lines[head][:1] not in ("{", "}", "#"):
            if lines[head].rstrip().endswith(";"):
                break  # a declaration or a macro
            head += 1
        if head == len(lines) or lines[head][:1] != "{":
            continue
        end = next(i for i in range(head, len(lines)) if lines[i][:1] == "}")
        static = "static" in lines[number - 2].split()
        yield number, match[1], static, end - number + 2


@rule
def short_functions(source: Source) -> Found:
    """No function is longer than sixty lines."""
    for line, name, _, length in functions(source):
        if length > MAX_FUNCTION_LINES:
            yield line, f"{name}() has {length} lines"


@rule
def exported_names(source: Source) -> Found:
    """Below api/, whatever is not static is called vd_*, or main in the server."""
    if source.layer in ("api", "include", BINDING, ""):
        return
    for line, name, static, _ in functions(source):
        if source.layer == "server" and name == "main":
            continue
        if not static and not name.startswith("vd_"):
            yield line, f"{name}() is neither static nor vd_*"


def sources(root: pathlib.Path) -> Iterator[Source]:
    """Every C file below src/."""
    for path in sorted((root / "src").rglob("*.[ch]")):
        yield Source.load(root, path)


def check(root: pathlib.Path) -> list[Violation]:
    """All violations in the tree, in the order of the files."""
    return [
        Violation(source.path, line, name, what)
        for source in sources(root)
        for name, found in RULES.items()
        for line, what in found(source)
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line: 0 in order, 1 violations, 2 no sources."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    here = pathlib.Path(__file__).resolve().parents[1]
    parser.add_argument("root", nargs="?", type=pathlib.Path, default=here)
    root = parser.parse_args(arguments).root
    count = sum(1 for _ in sources(root))
    if not count:
        print(f"no C sources below {root}/src", file=sys.stderr)
        return 2
    violations = check(root)
    print(*violations, sep="\n", end="\n" if violations else "")
    print(f"{count} files, {len(RULES)} rules, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
