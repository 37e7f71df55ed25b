"""What `python -m build` makes: contents, metadata, symbols, installation.

The lists in tests/packaging/ name every file of the wheel and of the sdist.
They are written by hand: a file that should be in one of them is added there
by whoever adds the file.
"""

from __future__ import annotations

import email.message
import email.parser
import email.policy
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from support import LINUX, ROOT, require_tool

pytestmark = [
    pytest.mark.tree,
    pytest.mark.skipif(not LINUX, reason="the symbols are those of ELF"),
]

LISTS = ROOT / "tests" / "packaging"
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", "__pycache__", "build", "dist", "*.egg-info", "*.so"
)
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
# Of the C library alone, under the names it has had.
SYSTEM_LIBRARIES = re.compile(r"lib(c|pthread)\.so\.\d+|ld-linux-[\w-]+\.so\.\d+")


def _project() -> dict[str, str]:
    with open(ROOT / "pyproject.toml", "rb") as source:
        project: dict[str, str] = tomllib.load(source)["project"]
    return project


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the sdist, and the wheel built from it, of a copy."""
    folder = tmp_path_factory.mktemp("build")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_SOURCE)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", tree],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(distributions: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    (path,) = distributions.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def sdist(distributions: pathlib.Path) -> pathlib.Path:
    (path,) = distributions.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def extension(
    wheel: zipfile.ZipFile, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    (name,) = (name for name in wheel.namelist() if name.endswith(".so"))
    return pathlib.Path(wheel.extract(name, tmp_path_factory.mktemp("extension")))


def _compare(found: list[str], name: str) -> None:
    """With the list: nothing missing, nothing more, nothing twice."""
    lines = (LISTS / name).read_text().splitlines()
    expected = [line for line in lines if line and not line.startswith("#")]
    assert (
        sorted(set(expected) - set(found)),  # missing
        sorted(set(found) - set(expected)),  # more
    ) == ([], [])
    assert len(found) == len(expected)


def _without_version(name: str) -> str:
    """The lists outlive releases and hold for every Python."""
    name = name.replace(f"virtdisk-{_project()['version']}", "virtdisk-VERSION")
    return re.sub(r"(/_virtdisk)\.[^/]*\.so$", r"\1.SUFFIX", name)


def _message(wheel: zipfile.ZipFile, name: str) -> email.message.Message:
    folder = f"virtdisk-{_project()['version']}.dist-info"
    text = wheel.read(f"{folder}/{name}").decode()
    return email.parser.Parser(policy=email.policy.compat32).parsestr(text)


def test_wheel_holds_what_the_list_says(wheel: zipfile.ZipFile) -> None:
    _compare([_without_version(name) for name in wheel.namelist()], "wheel.txt")


def test_sdist_holds_what_the_list_says(sdist: pathlib.Path) -> None:
    with tarfile.open(sdist) as archive:
        files = [member for member in archive if not member.isdir()]
    assert all(member.isfile() for member in files)
    top = f"virtdisk-{_project()['version']}/"
    assert all(member.name.startswith(top) for member in files)
    _compare([member.name.removeprefix(top) for member in files], "sdist.txt")


def test_every_c_file_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is forgotten, wherever it is, and none is there twice."""
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **kw: given.update(kw))
    monkeypatch.chdir(ROOT)
    script = runpy.run_path("setup.py")
    (extension,) = given["ext_modules"]
    server = set(script["c_files"]("src/engine/server"))
    assert len(extension.sources) == len(set(extension.sources))
    assert sorted({*extension.sources, *server}) == sorted(
        path.relative_to(ROOT).as_posix() for path in (ROOT / "src").rglob("*.c")
    )


def test_twine_check(distributions: pathlib.Path) -> None:
    files = sorted(distributions.iterdir())
    assert len(files) == 2
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_metadata(wheel: zipfile.ZipFile) -> None:
    metadata = _message(wheel, "METADATA")
    project = _project()
    assert metadata["Name"] == "virtdisk"
    assert metadata["Version"] == project["version"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    assert sorted(metadata.get_all("Provides-Extra", [])) == ["dev", "test"]
    needed = metadata.get_all("Requires-Dist", [])
    assert needed
    assert [line for line in needed if "extra ==" not in line] == []


def test_wheel_tag(wheel: zipfile.ZipFile) -> None:
    tags = _message(wheel, "WHEEL").get_all("Tag", [])
    assert len(tags) == 1
    python, abi, platform = tags[0].split("-")
    assert platform == sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if FREE_THREADED:
        assert abi.startswith(python)
        assert abi.endswith("t")
    else:
        assert (python, abi) == ("cp311", "abi3")


def test_extension_exports_only_its_init(extension: pathlib.Path) -> None:
    nm = require_tool("nm", package="binutils")
    listed = subprocess.run(
        [nm, "-D", "--defined-only", extension],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == ["PyInit__virtdisk"]


def test_extension_needs_only_the_c_library(extension: pathlib.Path) -> None:
    readelf = require_tool("readelf", package="binutils")
    listed = subprocess.run(
        [readelf, "-dW", extension], check=True, capture_output=True, text=True
    ).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", listed)
    assert "libc.so.6" in needed
    assert [name for name in needed if not SYSTEM_LIBRARIES.fullmatch(name)] == []


def test_extension_is_hardened(extension: pathlib.Path) -> None:
    """No text relocations, no executable stack."""
    readelf = require_tool("readelf", package="binutils")
    listed = subprocess.run(
        [readelf, "-dlW", extension], check=True, capture_output=True, text=True
    ).stdout
    assert "TEXTREL" not in listed
    (stack,) = (line for line in listed.splitlines() if "GNU_STACK" in line)
    assert stack.split()[-2] == "RW"


def test_sdist_installs(sdist: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Into an empty environment, with nothing but what PyPI has."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    pip = venv / "bin" / "pip"
    done = subprocess.run([pip, "install", sdist], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run([pip, "check"], check=True, capture_output=True)
    call = "import virtdisk, virtdisk._virtdisk; print(virtdisk.__version__)"
    said = subprocess.run(
        [venv / "bin" / "python", "-c", call],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    assert said == f"{_project()['version']}\n"
    python = str(venv / "bin" / "python")
    for command in ([f"{venv}/bin/virtdisk"], [python, "-m", "virtdisk"]):
        helped = subprocess.run(
            [*command, "--help"], capture_output=True, text=True, cwd=tmp_path
        )
        assert helped.returncode == 0, helped.stderr
        assert helped.stdout.startswith("usage: virtdisk")
