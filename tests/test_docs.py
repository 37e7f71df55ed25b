"""The documents: that they stay short, and that what they say is so."""

from __future__ import annotations

import os
import pathlib
import re
import runpy
import subprocess
import sys
import tomllib

import pytest
from support import LINUX, ROOT, make_iso, make_vhd, require_loop, require_tool

import virtdisk

pytestmark = pytest.mark.tree

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
EXAMPLE = re.compile(
    r"<!-- example: (\w+) -->\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
EXAMPLES = dict(EXAMPLE.findall(README))
# What an example prints; a regular expression, matched in full.
PRINTED = {
    "attach": r"/dev/loop\d+\n.*\n",
    "permanent": "",
    "info": "4194304 512\n",
    "create": r"(\d+ \d+\n)+",
    "errors": r"ERROR_FILE_NOT_FOUND 2\n.*missing\.iso.*\n(.*\n)*",
}


def _commands() -> dict[str, str]:
    script = runpy.run_path(str(ROOT / "tools" / "readme_command.py"))
    found: dict[str, str] = script["commands"](README)
    return found


@pytest.mark.parametrize(("name", "limit"), [("README", 150), ("ARCHITECTURE", 200)])
def test_it_is_short(name: str, limit: int) -> None:
    lines = (ROOT / f"{name}.md").read_text().splitlines()
    assert 50 < len(lines) <= limit


def test_the_commands_of_the_readme_are_what_ci_runs() -> None:
    commands = _commands()
    assert list(commands) == ["try", "test"]
    assert commands["try"].endswith(".venv/bin/python examples/attach_image.py")
    assert commands["test"].endswith(".venv/bin/pytest")
    ci = (ROOT / ".ci" / "run").read_text()
    assert "for command in try test; do" in ci
    assert 'tools/readme_command.py "$command"' in ci


def test_readme_command_refuses_what_is_not_there() -> None:
    script = ROOT / "tools" / "readme_command.py"
    good = subprocess.run(
        [sys.executable, script, "test"], capture_output=True, text=True
    )
    assert (good.returncode, good.stdout) == (0, _commands()["test"] + "\n")
    bad = subprocess.run(
        [sys.executable, script, "nothing"], capture_output=True, text=True
    )
    assert (bad.returncode, bad.stdout) == (2, "")
    assert "try|test" in bad.stderr


def test_examples_of_the_readme_are_known() -> None:
    assert set(EXAMPLES) == set(PRINTED)
    unnamed = README.count("```python") - len(EXAMPLES)
    assert unnamed == 0


@pytest.mark.skipif(not LINUX, reason="prints Linux device names")
@pytest.mark.parametrize("name", sorted(PRINTED))
def test_example_runs(name: str, tmp_path: pathlib.Path) -> None:
    if "attach(" in EXAMPLES[name] and name != "errors":
        require_loop()
    make_iso(tmp_path / "win.iso")
    make_vhd(tmp_path / "data.vhd")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[name]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(PRINTED[name], done.stdout), done.stdout
    names = {image.path for image in virtdisk.attached()}
    assert not [path for path in names if path.startswith(str(tmp_path))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: pathlib.Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", path.read_text())
    local = [target for target in targets if "://" not in target]
    assert [name for name in local if not (path.parent / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_paths_that_are_named_exist(path: pathlib.Path) -> None:
    """Those in backquotes that begin with a folder of the tree."""
    words = re.findall(r"`([\w.][\w./-]*/[\w./-]*)`", path.read_text())
    tops = {entry.name for entry in ROOT.iterdir()}
    named = {word for word in words if word.split("/")[0] in tops}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_architecture_names_the_code_that_there_is() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    folders = re.findall(r"^### (\S+)$", text, re.MULTILINE)
    engine = [path for path in (ROOT / "src" / "engine").iterdir() if path.is_dir()]
    assert set(folders) == {
        "src/_virtdisk.c",
        "virtdisk",
        "tools",
        *(path.relative_to(ROOT).as_posix() for path in engine),
    }
    files = {path.name for path in (ROOT / "src").rglob("*.[ch]")}
    files |= {path.name for path in (ROOT / "virtdisk").iterdir()}
    files |= {path.name for path in (ROOT / "tools").iterdir()}
    named = re.findall(r"`(\w[\w-]*\.(?:c|h|py|sh))`", text)
    assert len(named) > 20
    system = {"windows.h", "virtdisk.h"}
    assert [name for name in named if name not in files | system] == []
    assert text.count("*Invariant:*") >= 12


@pytest.mark.parametrize("target", ["help"])
def test_make_help_lists_every_target(target: str) -> None:
    make = require_tool("make", package="make")
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert targets == set(phony.split())
    said = subprocess.run(
        [make, "--no-print-directory", "-C", ROOT, target],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "MAKEFLAGS": ""},
    ).stdout
    assert {line.split()[0] for line in said.splitlines()} == targets
    assert all(len(line.split()) > 2 for line in said.splitlines())


def test_change_log_has_the_version() -> None:
    with open(ROOT / "pyproject.toml", "rb") as source:
        version = tomllib.load(source)["project"]["version"]
    assert virtdisk.__version__ == version
    script = runpy.run_path(str(ROOT / "tools" / "check_release.py"))
    assert list(script["headings"](ROOT))[:2] == ["Unreleased", version]
    assert script["problems"](ROOT, f"v{version}") == []


def test_release_check_finds_what_is_wrong(tmp_path: pathlib.Path) -> None:
    problems = runpy.run_path(str(ROOT / "tools" / "check_release.py"))["problems"]
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    package = tmp_path / "virtdisk"
    package.mkdir()
    (package / "__init__.py").write_text('__version__: Final = "1.1.0"\n')
    log = tmp_path / "CHANGELOG.md"
    log.write_text("# Change log\n\n## Unreleased\n\n## 1.2.0\n")
    assert problems(tmp_path, "v1.2.1") == [
        "the tag is v1.2.1, pyproject.toml says 1.2.0",
        "virtdisk/__init__.py says 1.1.0",
        "CHANGELOG.md has no date for 1.2.0",
    ]
    log.write_text("# Change log\n\n## Unreleased\n")
    assert problems(tmp_path, "v1.2.0") == [
        "virtdisk/__init__.py says 1.1.0",
        "CHANGELOG.md has no heading for 1.2.0",
    ]


@pytest.mark.skipif(not LINUX, reason="Debian's packages")
def test_packages_that_tests_name_are_installed_by_ci() -> None:
    text = (ROOT / "tools" / "debian-packages.txt").read_text()
    listed = {line for line in text.splitlines() if line and line[0] != "#"}
    named = {
        package
        for path in (ROOT / "tests").rglob("*.py")
        for package in re.findall(r'package="([\w.+-]+)"', path.read_text())
    }
    assert len(named) > 3
    assert named - listed == set()
