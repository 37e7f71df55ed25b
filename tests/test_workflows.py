"""The CI of GitHub, as far as it can be checked without GitHub.

The checkers are those of PyPI; each is also shown a broken file, so that a
checker that accepts everything is found out.
"""

from __future__ import annotations

import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from ruamel.yaml import YAML
from support import LINUX, ROOT, require_loop, require_tool

pytestmark = [
    pytest.mark.tree,
    pytest.mark.skipif(not LINUX, reason="run on Linux"),
]

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
NAMES = [path.name for path in FILES]
SHA = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")

SOUND = """\
name: x
on: push
permissions: {}
jobs:
  job:
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    steps:
      - run: echo
"""


def _tool(*command: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Runs a tool that came with the test extra."""
    program = pathlib.Path(sysconfig.get_path("scripts")) / str(command[0])
    return subprocess.run(
        [program, *command[1:]],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )


def _load(path: pathlib.Path) -> Any:
    return YAML(typ="safe").load(path)


def _jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in FILES:
        for name, job in _load(path)["jobs"].items():
            yield path.name, name, job


def _steps() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for file, name, job in _jobs():
        for step in job.get("steps", []):
            yield file, name, step


def test_the_workflows_are_there() -> None:
    assert NAMES == ["ci.yml", "publish.yml", "wheels.yml", "windows.yml"]


@pytest.mark.parametrize(
    "schema", ["vendor.github-workflows", "custom.github-workflows-require-timeout"]
)
def test_schema(schema: str, tmp_path: pathlib.Path) -> None:
    done = _tool("check-jsonschema", "--builtin-schema", schema, *FILES)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text(
        SOUND.replace("    timeout-minutes: 5\n", "").replace("runs-on", "runs-at")
    )
    done = _tool("check-jsonschema", "--builtin-schema", schema, broken)
    assert done.returncode == 1


def test_zizmor(tmp_path: pathlib.Path) -> None:
    done = _tool("zizmor", "--offline", "--quiet", FOLDER)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text(SOUND.replace("run: echo", "uses: someone/action@v1"))
    done = _tool("zizmor", "--offline", "--quiet", broken)
    assert done.returncode > 10
    assert "unpinned-uses" in done.stdout


def test_pyproject(tmp_path: pathlib.Path) -> None:
    done = _tool("validate-pyproject", ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "pyproject.toml"
    broken.write_text('[project]\nname = "x"\nversion = 1\n')
    assert _tool("validate-pyproject", broken).returncode == 1


@pytest.mark.parametrize("file", NAMES)
def test_nothing_is_permitted_by_default(file: str) -> None:
    assert _load(FOLDER / file)["permissions"] == {}


def test_only_the_publishing_job_may_get_a_token() -> None:
    writers = [
        (file, name)
        for file, name, job in _jobs()
        if "write" in str(job.get("permissions", {}))
    ]
    assert writers == [("publish.yml", "publish")]
    job = _load(FOLDER / "publish.yml")["jobs"]["publish"]
    assert job["permissions"] == {"id-token": "write"}
    assert job["environment"]["name"] == "pypi"
    assert not [step for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("file", NAMES)
def test_actions_are_pinned_by_commit(file: str) -> None:
    lines = (FOLDER / file).read_text().splitlines()
    used = [line.strip(" -") for line in lines if "uses:" in line]
    assert used
    local = [line for line in used if line.startswith("uses: ./")]
    assert [line for line in used if not SHA.search(line)] == local


def test_one_commit_for_each_action() -> None:
    text = "".join(path.read_text() for path in FILES)
    used = set(re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40})", text))
    assert len(used) == len({name for name, _ in used})


def test_checkouts_keep_no_credentials() -> None:
    checkouts = [
        (file, step)
        for file, _, step in _steps()
        if step.get("uses", "").startswith("actions/checkout@")
    ]
    assert len(checkouts) >= 5
    for file, step in checkouts:
        assert step["with"]["persist-credentials"] is False, file


def test_scripts_parse_and_what_they_run_exists() -> None:
    named = set()
    for file, _, step in _steps():
        script = step.get("run")
        if script is None:
            continue
        done = subprocess.run(
            ["bash", "-n"], input=script, text=True, capture_output=True
        )
        assert done.returncode == 0, (file, done.stderr)
        assert "${{" not in script, "expressions reach scripts through env"
        named |= set(re.findall(r"(?:tools|tests|\.ci)/[\w./-]*\w", script))
    assert named >= {".ci/run", "tools/check_abi.py", "tests/test_contract.py"}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_wheels_for_every_platform() -> None:
    jobs = _load(FOLDER / "wheels.yml")["jobs"]
    matrix = jobs["wheels"]["strategy"]["matrix"]["include"]
    assert sorted((row["os"], row["arch"]) for row in matrix) == [
        ("ubuntu-24.04", "x86_64"),
        ("ubuntu-24.04-arm", "aarch64"),
        ("windows-11-arm", "ARM64"),
        ("windows-2025", "AMD64"),
        ("windows-2025", "x86"),
    ]
    uploads = [
        step["with"]["name"]
        for _, _, step in _steps()
        if step.get("uses", "").startswith("actions/upload-artifact@")
    ]
    assert len(uploads) == 2
    assert all(name.startswith("dist-") for name in uploads)


@pytest.mark.parametrize(
    ("platform", "arch", "suffixes"),
    [
        ("linux", "x86_64", ["manylinux_x86_64", "musllinux_x86_64"]),
        ("linux", "aarch64", ["manylinux_aarch64", "musllinux_aarch64"]),
        ("windows", "AMD64", ["win_amd64"]),
        ("windows", "x86", ["win32"]),
        ("windows", "ARM64", ["win_arm64"]),
    ],
)
def test_cibuildwheel_builds(platform: str, arch: str, suffixes: list[str]) -> None:
    """3.11 with the abi3 wheel, the others to test it, and free threading."""
    done = _tool(
        "cibuildwheel",
        *("--print-build-identifiers", "--platform", platform, "--archs", arch),
        ROOT,
    )
    assert done.returncode == 0, done.stderr
    pythons = ["311", "312", "313", "314", "315", "314t", "315t"]
    assert sorted(done.stdout.split()) == sorted(
        f"cp{python}-{suffix}" for python in pythons for suffix in suffixes
    )


def _script(*command: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / command[0], *command[1:]],
        capture_output=True,
        text=True,
    )


def test_check_abi_script(tmp_path: pathlib.Path) -> None:
    require_tool("gcc", package="gcc")
    done = _script("check_abi.py")
    assert done.returncode == 0, done.stderr
    for header in (ROOT / "src" / "engine" / "include").iterdir():
        shutil.copy(header, tmp_path)
    header = tmp_path / "virtdisk.h"
    text = header.read_text()
    member = "DECLSPEC_ALIGN(8) ULONGLONG RestrictedOffset;"
    assert text.count(member) == 1
    header.write_text(text.replace(member, "ULONG RestrictedOffset;"))
    done = _script("check_abi.py", "--include", tmp_path)
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr


def test_attach_images_script() -> None:
    require_loop()
    done = _script("attach_images.py", "iso", "vhd")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("it reads as the image: yes") == 2
    assert done.stdout.endswith("2 kinds attached, read and detached\n")


def test_tests_of_the_installed_package_are_collected_without_the_tree(
    tmp_path: pathlib.Path,
) -> None:
    """As cibuildwheel lays them out."""
    with open(ROOT / "pyproject.toml", "rb") as source:
        wheels = tomllib.load(source)["tool"]["cibuildwheel"]
    assert wheels["test-command"] == "python tools/test_installed.py"
    for name in wheels["test-sources"]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name)
        else:
            shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        [sys.executable, "tools/test_installed.py", "--collect-only", "-q"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/test_contract.py::" in done.stdout
    assert "tests/test_lifetime.py::" in done.stdout
    assert "test_layers.py" not in done.stdout


def test_what_is_left_out_there_exists() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "test_installed.py"))
    named = script["NEED_TREE"]
    assert [name for name in named if not (ROOT / name).exists()] == []
    for node in script["NEED_TREE_TESTS"]:
        file, _, test = node.partition("::")
        assert f"def {test}(" in (ROOT / file).read_text()
