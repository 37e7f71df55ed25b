"""docs/differences.md: it speaks of all of virtdisk.h, and in its own words.

The names come from Microsoft's metadata (tests/abi/vhd_abi.json); that the
remarks are true is what the tests of each function are for, and a few of them
are tried here.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections import Counter
from collections.abc import Iterator

import pytest
from support import LINUX, ROOT, make_vhd

from virtdisk import VirtualDiskError, _virtdisk

pytestmark = pytest.mark.tree

TEXT = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([\w.]+)` \| (\w+) \|(.*)\|$", re.MULTILINE)
WORDS = {"same", "better", "other", "ignored", "refused"}


def rows(section: str) -> dict[str, tuple[str, str]]:
    """The lines of a section: a name, its word, its remark."""
    (body,) = re.findall(
        rf"^## {section}$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL
    )
    found = ROW.findall(body)
    counts = Counter(name for name, _, _ in found)
    assert [name for name, count in counts.items() if count > 1] == []
    table = [line for line in body.splitlines() if line.startswith("|")]
    assert len(found) == len(table) - 2  # its head
    return {name: (word, remark.strip()) for name, word, remark in found}


def metadata() -> dict[str, dict[str, object]]:
    answer: dict[str, dict[str, object]] = json.loads(
        (ROOT / "tests" / "abi" / "vhd_abi.json").read_text()
    )
    return answer


def members() -> Iterator[str]:
    """STRUCTURE.Member, whatever the version of the member."""
    for structure, layout in metadata()["structs"].items():
        assert isinstance(layout, dict)
        for member in layout["fields"]:
            name = re.sub(r"^Version\d\.", "", member)
            if not re.fullmatch(r"Version\d", name):
                yield f"{structure}.{name}"


def parameters() -> Iterator[str]:
    for function, names in metadata()["functions"].items():
        assert isinstance(names, list)
        yield from (f"{function}.{name}" for name in names)


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("Functions", set(metadata()["functions"])),
        ("Parameters", set(parameters())),
        ("Members of structures", set(members())),
        ("Constants", set(metadata()["constants"])),
    ],
)
def test_everything_has_its_line(section: str, names: set[str]) -> None:
    assert len(names) > 25
    found = set(rows(section))
    assert found - names == set()
    assert names - found == set()


SECTIONS = ["Functions", "Parameters", "Members of structures", "Constants"]


@pytest.mark.parametrize("section", SECTIONS)
def test_lines_use_the_words_and_say_why(section: str) -> None:
    for name, (word, remark) in rows(section).items():
        assert word in WORDS, name
        assert remark or word in {"same", "ignored"}, f"{name}: {word}, but why?"


def test_words_are_explained() -> None:
    head = TEXT.partition("## Functions")[0]
    assert set(re.findall(r"^\| (\w+) \|", head, re.MULTILINE)) - {"word"} == WORDS


# --- Some of the remarks ----------------------------------------------------


def code(call: object, *arguments: object, **options: object) -> int:
    assert callable(call)
    try:
        call(*arguments, **options)
    except VirtualDiskError as error:
        return error.winerror
    return 0


@pytest.mark.skipif(not LINUX, reason="the engine's answers")
def test_refused_functions_are_refused(tmp_path: pathlib.Path) -> None:
    refused = {
        name for name, (word, _) in rows("Functions").items() if word == "refused"
    }
    api, guid = _virtdisk, bytes(range(16))
    with api.OpenVirtualDisk(str(make_vhd(tmp_path / "a.vhd")), version=2) as handle:
        calls = {
            "QueryChangesVirtualDisk": (handle, "id", 0, 512),
            "TakeSnapshotVhdSet": (handle, guid),
            "DeleteSnapshotVhdSet": (handle, guid),
            "ModifyVhdSet": (handle, 2),
            "ApplySnapshotVhdSet": (handle, guid, guid),
            "ForkVirtualDisk": (handle, str(tmp_path / "b.vhd"), api.Overlapped()),
            "CompleteForkVirtualDisk": (handle,),
        }
        options = {"ModifyVhdSet": {"snapshot_id": guid}}
        assert set(calls) == refused
        for name, arguments in calls.items():
            function = getattr(api, name)
            assert code(function, *arguments, **options.get(name, {})) == 50, name


def flags_with(word: str, prefix: str) -> Iterator[tuple[str, int]]:
    values = metadata()["constants"]
    for name, (found, _) in rows("Constants").items():
        if found == word and name.startswith(prefix):
            value = values[name]
            assert isinstance(value, int)
            yield name, value


@pytest.mark.skipif(not LINUX, reason="the engine's answers")
@pytest.mark.parametrize("word", sorted(WORDS))
def test_flags_of_opening(word: str, tmp_path: pathlib.Path) -> None:
    image = str(make_vhd(tmp_path / "a.vhd"))
    expected = 50 if word == "refused" else 0
    for name, flag in flags_with(word, "OPEN_VIRTUAL_DISK_FLAG_"):
        answer = code(_virtdisk.OpenVirtualDisk, image, version=2, flags=flag)
        assert answer == expected, name


@pytest.mark.skipif(not LINUX, reason="the engine's answers")
def test_flags_of_creating(tmp_path: pathlib.Path) -> None:
    refused = list(flags_with("refused", "CREATE_VIRTUAL_DISK_FLAG_"))
    assert len(refused) > 3
    for name, flag in refused:
        path = str(tmp_path / "new.vhd")
        options = {"device_id": 2, "maximum_size": 64 << 20, "flags": flag}
        assert code(_virtdisk.CreateVirtualDisk, path, **options) == 50, name
    for name, flag in flags_with("better", "CREATE_VIRTUAL_DISK_FLAG_"):
        path = str(tmp_path / f"{name}.vhd")
        options = {"device_id": 2, "maximum_size": 64 << 20, "flags": flag}
        assert code(_virtdisk.CreateVirtualDisk, path, **options) == 0, name
