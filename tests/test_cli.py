"""The command line: its words, its answers, its exit codes."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any, Self

import pytest
from support import (
    LINUX,
    ROOT,
    let_go,
    loops_of,
    make_iso,
    make_vhd,
    require_loop,
    require_tool,
    sha256,
)

import virtdisk
from virtdisk import VirtualDiskError, _terminal, cli, error_from_code

PYTHON = [sys.executable, "-P", "-W", "error", "-m", "virtdisk"]


def run(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own."""
    return subprocess.run(
        [*PYTHON, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


COMMANDS = [
    *("attach", "detach", "list", "info", "create", "convert", "resize"),
    *("compact", "merge", "mirror", "chain"),
]


# --- Words ------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["mount"],
        ["attach"],
        ["attach", "a", "b"],
        ["attach", "a", "--type", "qcow2"],
        ["attach", "a", "--range", "1"],
        ["attach", "a", "--range", "1", "x"],
        ["detach"],
        ["list", "a"],
        ["info"],
        ["info", "a", "--read-only"],
        ["create"],
        ["create", "a.vhd", "64 gigs"],
        ["create", "a.vhd", "1GiB", "--type", "iso"],
        ["create", "a.vhd", "1GiB", "--subtype", "raw"],
        ["create", "a.vhd", "1GiB", "--block-size", "0.1B"],
        ["create", "a.vhd", "1GiB", "--id", "one"],
        ["convert", "a.vhd"],
        ["convert", "a.vhd", "b.vhd", "--type", "qcow2"],
        ["convert", "a.vhd", "b.vhd", "--subtype", "differencing"],
        ["convert", "a.vhd", "b.vhd", "--source-type", "vhd"],
        ["resize", "a.vhd"],
        ["resize", "a.vhd", "1GiB", "--smallest"],
        ["resize", "a.vhd", "-1"],
        ["compact"],
        ["compact", "a", "b"],
        ["merge"],
        ["merge", "a", "--target-depth", "x"],
        ["mirror", "a"],
        ["chain"],
    ],
)
def test_wrong_words(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: virtdisk")


@pytest.mark.parametrize(
    "words",
    [
        ["attach", ""],
        ["detach", ""],
        ["attach", "a", "--range", "0", "0"],
        ["create", "", "1GiB"],
        ["convert", "", "b.vhd"],
        ["resize", "", "1GiB"],
        ["chain", ""],
    ],
)
def test_wrong_values(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"virtdisk: [^\n]*empty[^\n]*\n", captured.err)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"virtdisk {virtdisk.__version__}\n"


def test_help_documents_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^    {command} ", text, re.MULTILINE)
    for code in ("0", "1", "2", "130"):
        assert re.search(rf"^  {code} +\w", text, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_speaks_json(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1048575, "1.0 MiB"),
        (1 << 20, "1.0 MiB"),
        (64 << 30, "64.0 GiB"),
        (2040 << 30, "2.0 TiB"),
        (64 << 40, "64.0 TiB"),
        ((1 << 64) - 1, "16.0 EiB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert _terminal.format_size(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("64GiB", 64 << 30),
        ("64 gib", 64 << 30),
        ("64G", 64 << 30),
        ("64g", 64 << 30),
        ("64GB", 64 * 10**9),
        ("1.5TiB", 3 << 39),
        ("0.5KiB", 512),
        ("2KB", 2000),
        ("15EiB", 15 << 60),
        (" 1M ", 1 << 20),
    ],
)
def test_sizes_of_people(text: str, size: int) -> None:
    assert _terminal.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *("", "GiB", "-1", "1.G", ".5G", "1e9", "0x10", "1Gi B", "1ZiB", "16EiB"),
        *("0.3B", "1,5GiB", "٣", "1 2", "1GiBs", "0.3KB5", "1_000"),
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(repr(text))):
        _terminal.parse_size(text)


# --- The bar ----------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "19")
    stream = Terminal()
    with _terminal.Bar(stream=stream) as bar:
        for current in (0, 1, 500, 501, 1000):
            bar(current, 1000)
    assert stream.getvalue().split("\r") == [
        "",
        "[          ]   0 %",
        "[#####     ]  50 %",
        "[##########] 100 %",
        "\x1b[K",
    ]


@pytest.mark.parametrize(
    ("stream", "hidden"), [(io.StringIO(), False), (Terminal(), True)]
)
def test_no_bar_elsewhere(stream: io.StringIO, hidden: bool) -> None:
    with _terminal.Bar(stream=stream, hidden=hidden) as bar:
        bar(1, 2)
    assert stream.getvalue() == ""


def test_bar_that_was_never_called() -> None:
    stream = Terminal()
    with _terminal.Bar(stream=stream):
        pass
    assert stream.getvalue() == ""


# --- How words become arguments ---------------------------------------------


class FakeDisk:
    path = "/a.vhd"
    physical_path = "/dev/loop7"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


DEFAULTS: dict[str, object] = {
    "read_only": None,
    "drive_letter": True,
    "permanent": True,
    "security": None,
    "restricted_range": None,
    "storage_type": None,
}


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ([], {}),
        (["--read-only"], {"read_only": True}),
        (["-r"], {"read_only": True}),
        (["--no-drive-letter"], {"drive_letter": False}),
        (["--wait"], {"permanent": False}),
        (["--security", "D:P(A;;GA;;;WD)"], {"security": "D:P(A;;GA;;;WD)"}),
        (["--range", "512", "1024"], {"restricted_range": (512, 1024)}),
        (["--type", "vhdx"], {"storage_type": virtdisk.StorageType.VHDX}),
        (["--type", "iso"], {"storage_type": virtdisk.StorageType.ISO}),
    ],
)
def test_words_of_attach(
    words: list[str],
    changed: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[tuple[str, dict[str, object]]] = []

    def attach(path: str, **arguments: object) -> FakeDisk:
        calls.append((path, arguments))
        return FakeDisk()

    monkeypatch.setattr(virtdisk, "attach", attach)
    monkeypatch.setattr(cli, "_sleep", lambda: None)
    previous = signal.getsignal(signal.SIGTERM)
    try:
        assert cli.main(["attach", "a.vhd", *words]) == 0
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert calls == [("a.vhd", {**DEFAULTS, **changed})]
    assert capsys.readouterr().out == "/dev/loop7\n"


# --- Images -----------------------------------------------------------------


class Calls:
    """Notes what the verbs are called with; a disk that is its own answer."""

    path = "/a.vhd"

    def __init__(self) -> None:
        self.made: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def note(self, name: str) -> Any:
        def call(*arguments: object, **options: object) -> Calls:
            progress = options.pop("progress", None)
            assert progress is None or isinstance(progress, _terminal.Bar)
            self.made.append((name, arguments, options))
            return self

        return call

    def __getattr__(self, name: str) -> Any:
        return self.note(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


GUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
NEW: dict[str, object] = {
    "block_size": None,
    "sector_size": None,
    "physical_sector_size": None,
    "id": None,
    "storage_type": None,
}
CREATE: dict[str, object] = {
    **NEW,
    "type": None,
    "parent": None,
    "source": None,
    "security": None,
}
CONVERT: dict[str, object] = {**NEW, "type": None, "source_type": None}


@pytest.mark.parametrize(
    ("words", "arguments", "options"),
    [
        (["create", "a", "64GiB"], ("a", 64 << 30), CREATE),
        (
            ["create", "a", "--parent", "b", "--subtype", "differencing"],
            ("a", None),
            {**CREATE, "parent": "b", "type": "differencing"},
        ),
        (
            ["create", "a", "--source", "b", "--type", "vhdx", "--block-size", "1M"],
            ("a", None),
            {
                **CREATE,
                "source": "b",
                "storage_type": virtdisk.StorageType.VHDX,
                "block_size": 1 << 20,
            },
        ),
        (
            [
                "create",
                "a",
                "1G",
                "--sector-size",
                "4KiB",
                "--id",
                str(uuid.UUID(int=7)),
            ],
            ("a", 1 << 30),
            {**CREATE, "sector_size": 4096, "id": uuid.UUID(int=7)},
        ),
        (
            ["create", "a", "1G", "--physical-sector-size", "512", "--security", "D:"],
            ("a", 1 << 30),
            {**CREATE, "physical_sector_size": 512, "security": "D:"},
        ),
        (["convert", "a", "b"], ("a", "b"), CONVERT),
        (
            ["convert", "a", "b", "--type", "raw"],
            ("a", "b"),
            {**CONVERT, "type": "raw"},
        ),
        (
            ["convert", "a", "b", "--type", "vhd", "--subtype", "fixed"],
            ("a", "b"),
            {**CONVERT, "type": "fixed", "storage_type": virtdisk.StorageType.VHD},
        ),
        (
            ["convert", "a", "b", "--source-type", "raw"],
            ("a", "b"),
            {**CONVERT, "source_type": "raw"},
        ),
    ],
)
def test_words_of_new_images(
    words: list[str],
    arguments: tuple[object, ...],
    options: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = Calls()
    monkeypatch.setattr(virtdisk, words[0], calls.note(words[0]))
    assert cli.main(words) == 0
    assert calls.made == [(words[0], arguments, options)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "arguments", "options"),
    [
        (["resize", "a", "1G"], (1 << 30,), {"smallest": False, "allow_unsafe": False}),
        (
            ["resize", "a", "--smallest"],
            (None,),
            {"smallest": True, "allow_unsafe": False},
        ),
        (
            ["resize", "a", "1G", "--allow-unsafe"],
            (1 << 30,),
            {"smallest": False, "allow_unsafe": True},
        ),
        (["merge", "a"], (), {"source_depth": 1, "target_depth": 2}),
        (
            ["merge", "a", "--source-depth", "2", "--target-depth", "4"],
            (),
            {"source_depth": 2, "target_depth": 4},
        ),
        (["mirror", "a", "b"], ("b",), {"existing": False}),
        (["mirror", "a", "b", "--existing"], ("b",), {"existing": True}),
    ],
)
def test_words_of_verbs(
    words: list[str],
    arguments: tuple[object, ...],
    options: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = Calls()
    monkeypatch.setattr(virtdisk, "open", calls.note("open"))
    monkeypatch.setattr(virtdisk, "chain", lambda _: ())
    assert cli.main(words) == 0
    assert calls.made == [("open", ("a",), {}), (words[0], arguments, options)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {"zero_scan": True, "block_moves": True}),
        (["--no-zero-scan"], {"zero_scan": False, "block_moves": True}),
        (["--no-block-moves"], {"zero_scan": True, "block_moves": False}),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_compact_says_by_how_much(
    words: list[str],
    options: dict[str, object],
    as_json: bool,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = make_vhd(tmp_path / "a.vhd", 4 << 20)

    def compact(**arguments: object) -> None:
        del arguments["progress"]
        assert arguments == options
        os.truncate(image, 1 << 20)

    calls = Calls()
    calls.path = str(image)
    monkeypatch.setattr(calls, "compact", compact, raising=False)
    monkeypatch.setattr(virtdisk, "open", lambda _: calls)
    assert cli.main(["compact", str(image), *words, *["--json"] * as_json]) == 0
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out) == {
            "path": str(image),
            "physical_size_before": (4 << 20) + 512,
            "physical_size": 1 << 20,
        }
    else:
        assert out == "4.0 MiB -> 1.0 MiB\n"


def test_raw_files_have_no_subtype(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", "a.vhd", "b", "--type", "raw", "--subtype", "fixed"]
    assert cli.main(words) == 2
    assert "--subtype" in capsys.readouterr().err


# --- Failures ---------------------------------------------------------------


def failing(error: BaseException) -> Any:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


def test_failure_is_a_line_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_from_code(32, "AttachVirtualDisk", "/a.vhd")
    monkeypatch.setattr(virtdisk, "attach", failing(error))
    assert cli.main(["attach", "/a.vhd"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "virtdisk: " + error.lines()[0],
        f"remedy: {error.remedy}",
    ]


def test_failure_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_from_code(0xC03A0014, "OpenVirtualDisk", "/a.vhd")
    monkeypatch.setattr(virtdisk, "attach", failing(error))
    assert cli.main(["attach", "--json", "/a.vhd"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err) == {
        "error": "ERROR_VIRTDISK_PROVIDER_NOT_FOUND",
        "code": 3225026580,
        "function": "OpenVirtualDisk",
        "message": "No provider knows this kind of image.",
        "path": "/a.vhd",
        "remedy": error.remedy,
    }


def test_other_system_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(virtdisk, "detach", failing(OSError(5, "I/O error", "/x")))
    assert cli.main(["detach", "/x"]) == 1
    assert capsys.readouterr().err == "virtdisk: [Errno 5] I/O error: '/x'\n"
    assert cli.main(["detach", "--json", "/x"]) == 1
    answer = json.loads(capsys.readouterr().err)
    assert (answer["error"], answer["message"]) == (None, "I/O error")


def test_function_that_the_system_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = NotImplementedError("Wine's virtdisk.dll does not implement X")
    monkeypatch.setattr(virtdisk, "attached", failing(error))
    assert cli.main(["list"]) == 1
    assert capsys.readouterr().err == f"virtdisk: {error}\n"


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("no size"), 2), (NotImplementedError("too old"), 1)]
)
def test_other_failures_in_json(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(virtdisk, "attached", failing(error))
    assert cli.main(["list", "--json"]) == code
    assert json.loads(capsys.readouterr().err) == {
        "error": None,
        "code": None,
        "function": None,
        "message": str(error),
        "path": None,
        "remedy": None,
    }


@pytest.mark.skipif(not LINUX, reason="needs the engine and a shell")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, tmp_path: pathlib.Path) -> None:
    """Nobody is told, and no image gets the number of standard error."""
    source, image = make_vhd(tmp_path / "in.vhd", 5 << 20), tmp_path / "out.raw"
    words = shlex.join(
        [sys.executable, "-m", "virtdisk", "convert", str(source), str(image)]
    )
    environment = {**os.environ, "VIRTDISK_DEBUG": "all"}
    for expected in (0, 1):  # then it is there
        answer = subprocess.run(
            ["/bin/sh", "-c", f"{words} {closed}"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert answer.returncode == expected, answer.stderr
        assert "Traceback" not in answer.stderr
        assert image.read_bytes() == source.read_bytes()[:-512]


def test_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtdisk, "attached", failing(KeyboardInterrupt()))
    assert cli.main(["list"]) == 130


def test_defects_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtdisk, "attached", failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["list"])


# --- list -------------------------------------------------------------------

IMAGES = [
    virtdisk.AttachedImage(path="/a.vhd", physical_path="/dev/loop10"),
    virtdisk.AttachedImage(path="/new\nline\udcff.iso", physical_path="/dev/loop2"),
    virtdisk.AttachedImage(path="/gone.vhd", physical_path=None),
]


def test_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(virtdisk, "attached", lambda: IMAGES)
    assert cli.main(["list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "/dev/loop10  /a.vhd",
        "/dev/loop2   '/new\\nline\\udcff.iso'",
        "-            /gone.vhd",
    ]


def test_list_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(virtdisk, "attached", lambda: IMAGES)
    assert cli.main(["list", "--json"]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == [
        {"path": image.path, "physical_path": image.physical_path} for image in IMAGES
    ]


@pytest.mark.parametrize(("words", "out"), [([], ""), (["--json"], "[]\n")])
def test_empty_list(
    words: list[str],
    out: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(virtdisk, "attached", list)
    assert cli.main(["list", *words]) == 0
    assert capsys.readouterr().out == out


# --- Processes --------------------------------------------------------------


def test_reader_that_goes_away() -> None:
    """`virtdisk info x | head -0`: no traceback, no "Exception ignored"."""
    reading, writing = os.pipe()
    os.close(reading)
    code = (
        "import sys, virtdisk; from virtdisk import cli\n"
        "entry = virtdisk.AttachedImage(path='/a' * 50000, physical_path=None)\n"
        "virtdisk.attached = lambda: [entry] * 9\n"
        "sys.exit(cli.main(['list']))\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_without_the_characters(tmp_path: pathlib.Path) -> None:
    image = make_vhd(tmp_path / "磁盘.vhd")
    done = run("info", image, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "\\u78c1\\u76d8.vhd" in done.stdout


def test_entry_point_is_the_same(tmp_path: pathlib.Path) -> None:
    program = pathlib.Path(sys.executable).parent / "virtdisk"
    if LINUX and not program.exists():
        pytest.skip("installed without its script")
    done = subprocess.run(
        [program, "info", tmp_path / "none.vhd"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("virtdisk: [ERROR_FILE_NOT_FOUND 2] OpenVirtualDisk")


# --- info, on real images ---------------------------------------------------


def test_info_in_json(tmp_path: pathlib.Path) -> None:
    image = make_vhd(tmp_path / "a.vhd", 4 << 20)
    done = run("info", "--json", image)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    host = answer.pop("physical_disk")
    assert set(host) == {"logical_sector_size", "physical_sector_size", "is_remote"}
    assert answer.pop("physical_sector_size") in (512, 4096)
    assert answer == {
        "path": str(image),
        "virtual_size": 4 << 20,
        "physical_size": (4 << 20) + 512,
        "block_size": 0,
        "sector_size": 512,
        "storage_type": "vhd",
        "vendor_id": "ec984aec-a0f9-47e9-901f-71415a66345b",
        "subtype": "fixed",
        "identifier": "03020100-0504-0706-0809-0a0b0c0d0e0f",
        "virtual_disk_id": None,
        "is_4k_aligned": True,
        "smallest_safe_virtual_size": None,
        "fragmentation": 0,
        "is_loaded": False,
        "parent": None,
        "change_tracking": None,
    }


def test_info_for_people(tmp_path: pathlib.Path) -> None:
    image = make_iso(tmp_path / "a.iso", 64)
    done = run("info", image)
    assert (done.returncode, done.stderr) == (0, "")
    pairs = re.findall(r"^([\w ]+): +(.*)$", done.stdout, re.MULTILINE)
    assert len(pairs) == len(done.stdout.splitlines())
    rows = dict(pairs)
    assert rows["image"] == str(image)
    assert rows["type"] == "iso"
    assert rows["virtual size"] == "128.0 KiB (131072)"
    assert rows["sector size"] == "2048"
    assert rows["attached"] == "no"
    assert "identifier" not in rows


def test_info_with_a_named_type(tmp_path: pathlib.Path) -> None:
    image = make_vhd(tmp_path / "a.vhd")
    done = run("info", image, "--type", "iso")
    assert done.returncode == 1
    assert "1392" in done.stderr or "0xC03A" in done.stderr


# --- Images, real ones ------------------------------------------------------


@pytest.mark.skipif(not LINUX, reason="the engine's behaviour")
def test_life_of_an_image(tmp_path: pathlib.Path) -> None:
    """Made, filled, made larger and smaller, converted; each step told in JSON."""

    def answer(*words: object) -> Any:
        done = run(*words, "--json", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    made = answer("create", "a.vhdx", "64MiB", "--block-size", "1MiB")
    assert made["path"] == str(tmp_path / "a.vhdx")
    assert (made["virtual_size"], made["block_size"]) == (64 << 20, 1 << 20)
    assert (made["storage_type"], made["subtype"]) == ("vhdx", "dynamic")
    assert answer("resize", "a.vhdx", "96M")["virtual_size"] == 96 << 20
    compacted = answer("compact", "a.vhdx")
    assert compacted["physical_size"] <= compacted["physical_size_before"]
    converted = answer("convert", "a.vhdx", "b.raw")
    assert converted == {
        "source": str(tmp_path / "a.vhdx"),
        "path": str(tmp_path / "b.raw"),
    }
    assert (tmp_path / "b.raw").stat().st_size == 96 << 20
    child = answer("create", "c.vhdx", "--parent", "a.vhdx")
    assert child["parent"]["paths"] == [str(tmp_path / "a.vhdx")]
    links = answer("chain", "c.vhdx")
    assert [link["path"] for link in links] == [child["path"], made["path"]]
    assert [link["error"] for link in links] == [None, None]
    assert links[1]["info"]["virtual_size"] == 96 << 20


@pytest.mark.skipif(not LINUX, reason="the engine's behaviour")
def test_broken_chain_is_a_failure(tmp_path: pathlib.Path) -> None:
    for words in (["a.vhdx", "64MiB"], ["b.vhdx", "--parent", "a.vhdx"]):
        made = run("create", *words, cwd=tmp_path)
        assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    whole = run("chain", "b.vhdx", cwd=tmp_path)
    assert whole.stdout.splitlines() == [
        f"{tmp_path}/b.vhdx  (vhdx differencing, 64.0 MiB)",
        f"{tmp_path}/a.vhdx  (vhdx dynamic, 64.0 MiB)",
    ]
    (tmp_path / "a.vhdx").unlink()
    broken = run("chain", "b.vhdx", cwd=tmp_path)
    assert broken.returncode == 1
    assert broken.stdout.splitlines() == whole.stdout.splitlines()[:1]
    assert broken.stderr.startswith("virtdisk: [ERROR_VHD_PARENT_VHD_NOT_FOUND")
    told = run("chain", "b.vhdx", "--json", cwd=tmp_path)
    assert told.returncode == 1
    (link,) = json.loads(told.stdout)
    assert link["error"] == json.loads(told.stderr)
    assert link["error"]["code"] == 0xC03A000D


@pytest.mark.skipif(not LINUX, reason="the engine's behaviour")
def test_failures_have_no_traceback(tmp_path: pathlib.Path) -> None:
    make_vhd(tmp_path / "a.vhd")
    make_vhd(tmp_path / "b.vhd")
    (tmp_path / "c.img").touch()
    for words, code in (
        (["create", "b.vhd", "1GiB"], "ERROR_FILE_EXISTS 80"),
        (["create", "d.vhd", "1GiB", "--parent", "none.vhd"], "ERROR_FILE_NOT_FOUND"),
        (["convert", "a.vhd", "b.vhd"], "ERROR_FILE_EXISTS 80"),
        (["convert", "a.vhd", "c.img"], "Errno 17"),
        (["compact", "a.vhd"], "ERROR_VHD_INVALID_TYPE"),
        (["resize", "none.vhd", "1G"], "ERROR_FILE_NOT_FOUND"),
        (["merge", "none.vhd"], "ERROR_FILE_NOT_FOUND"),
        (["chain", "none.vhd"], "ERROR_FILE_NOT_FOUND"),
    ):
        done = run(*words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert code in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(not LINUX, reason="needs a terminal of Unix")
def test_progress_on_a_real_terminal(tmp_path: pathlib.Path) -> None:
    import pty

    image = make_vhd(tmp_path / "a.vhd", 64 << 20)
    reading, writing = pty.openpty()
    try:
        words = [*PYTHON, "convert", str(image), str(tmp_path / "b.vhdx")]
        done = subprocess.run(words, stderr=writing, stdout=subprocess.PIPE)
        os.write(writing, b"over")
        shown = b""
        while not shown.endswith(b"over"):
            shown += os.read(reading, 4096)
    finally:
        os.close(reading)
        os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"] 100 %" in shown
    assert shown.endswith(b"\r\x1b[K" + b"over")


# --- attach and detach, on real devices -------------------------------------


@pytest.fixture
def image(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """An image that is detached afterwards, whatever the test left."""
    require_loop()
    path = make_vhd(tmp_path / "cli.vhd")
    yield path
    with contextlib.suppress(VirtualDiskError):
        virtdisk.detach(path)


def test_attach_list_detach(image: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = run("attach", image)
    assert (done.returncode, done.stderr) == (0, "")
    device = done.stdout.rstrip("\n")
    assert list(loops_of(tmp_path)) == [device]  # the command has ended
    listed = run("list")
    assert f"{device}  {image}" in [
        re.sub(" +", "  ", line, count=1) for line in listed.stdout.splitlines()
    ]
    again = run("attach", image)
    assert again.returncode == 1
    assert again.stderr.startswith("virtdisk: [ERROR_SHARING_VIOLATION 32]")
    gone = run("detach", image)
    assert (gone.returncode, gone.stdout, gone.stderr) == (0, "", "")
    assert let_go(tmp_path)
    twice = run("detach", image)
    assert twice.returncode == 1
    assert twice.stderr.startswith("virtdisk: [ERROR_NOT_READY 21] DetachVirtualDisk")


def test_attach_and_detach_in_json(image: pathlib.Path) -> None:
    done = run("attach", "--json", "--read-only", "--no-drive-letter", image)
    answer = json.loads(done.stdout)
    assert answer.keys() == {"path", "physical_path"}
    assert answer["path"] == str(image)
    name = os.path.basename(answer["physical_path"])
    assert pathlib.Path(f"/sys/block/{name}/ro").read_text() == "1\n"
    listed = json.loads(run("list", "--json").stdout)
    assert answer in listed
    gone = run("detach", "--json", answer["physical_path"])
    assert gone.returncode == 0
    assert json.loads(gone.stdout) == {"path": answer["physical_path"]}
    assert answer not in json.loads(run("list", "--json").stdout)


def test_attach_a_range(image: pathlib.Path) -> None:
    device = run("attach", "--range", 512, 1024, image).stdout.rstrip("\n")
    assert pathlib.Path(device).read_bytes() == image.read_bytes()[512:1536]


def test_attach_with_a_descriptor(image: pathlib.Path) -> None:
    done = run("attach", "--security", "D:P(A;;GR;;;WD)", image)
    assert os.stat(done.stdout.rstrip("\n")).st_mode & 0o777 == 0o444


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_wait_until_a_signal(
    number: signal.Signals, image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    process = subprocess.Popen(
        [*PYTHON, "attach", "--wait", image],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    device = process.stdout.readline().rstrip("\n")
    assert list(loops_of(tmp_path)) == [device]
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "", "")
    assert let_go(tmp_path)


def test_wait_survives_a_detach_by_others(
    image: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    process = subprocess.Popen(
        [*PYTHON, "attach", "-w", image],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline().startswith("/dev/")
    virtdisk.detach(image)
    assert let_go(tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, "", "")


# Everything is imported before the privileges go, for nobody may have no right
# to read the interpreter's own files.  A first run, which fails, imports what
# is only imported when needed.
AS_NOBODY = """
import contextlib, importlib.util, io, os, sys
import virtdisk.cli
with contextlib.redirect_stderr(io.StringIO()):
    assert virtdisk.cli.main(["info", "/no/such/file"]) == 1
if sys.argv[1] == "cli":
    module = virtdisk.cli
else:
    spec = importlib.util.spec_from_file_location("example", sys.argv[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
os.chdir("/")
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
del sys.argv[1]
sys.exit(module.main())
"""


def run_as_nobody(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", AS_NOBODY, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_privilege() -> None:
    require_loop()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        image = make_vhd(pathlib.Path(directory, "a.vhd"))
        os.chmod(image, 0o666)
        done = run_as_nobody("cli", "attach", image)
        assert let_go(directory)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("virtdisk: [ERROR_PRIVILEGE_NOT_HELD 1314]")
    assert "\nremedy: run as root" in done.stderr


# --- The example ------------------------------------------------------------

EXAMPLE = ROOT / "examples" / "attach_image.py"


def example(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    if not EXAMPLE.exists():
        pytest.skip("the examples are not here")
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", EXAMPLE, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_example_builds_attaches_and_detaches(tmp_path: pathlib.Path) -> None:
    require_loop()
    kept = tmp_path / "kept.iso"
    done = example("--output", kept)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"attached  {kept}" in done.stdout
    device = r"^as        /dev/loop\d+  \(45056 bytes\)$"
    assert re.search(device, done.stdout, re.MULTILINE)
    assert done.stdout.count(sha256(kept)) == 2
    assert done.stdout.endswith("detached\nnothing is left attached\n")
    assert let_go(tmp_path)


def test_example_writes_a_valid_iso(tmp_path: pathlib.Path) -> None:
    """Another program finds the file and its content in it."""
    require_loop()
    isoinfo = require_tool("isoinfo", package="genisoimage")
    kept = tmp_path / "kept.iso"
    assert example("--output", kept).returncode == 0
    listing = subprocess.check_output([isoinfo, "-i", kept, "-f"], text=True)
    assert listing == "/HELLO.TXT;1\n"
    content = subprocess.check_output([isoinfo, "-i", kept, "-x", "/HELLO.TXT;1"])
    assert content.startswith(b"This file lies in an ISO 9660 image")
    facts = subprocess.check_output([isoinfo, "-d", "-i", kept], text=True)
    assert "Volume id: HELLO\n" in facts
    assert f"Volume size is: {kept.stat().st_size // 2048}\n" in facts


def test_example_takes_an_image(tmp_path: pathlib.Path) -> None:
    require_loop()
    image = make_vhd(tmp_path / "a.vhd")
    done = example(image)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("sha256") == 2


def test_example_without_privilege() -> None:
    require_loop()
    done = run_as_nobody(EXAMPLE)
    assert done.returncode == 1
    assert "ERROR_PRIVILEGE_NOT_HELD" in done.stderr
    assert "run as root" in done.stderr
    assert "Traceback" not in done.stderr


def test_example_with_a_missing_image(tmp_path: pathlib.Path) -> None:
    done = example(tmp_path / "none.vhd")
    assert done.returncode == 1
    assert "ERROR_FILE_NOT_FOUND" in done.stderr
    assert "Traceback" not in done.stderr
