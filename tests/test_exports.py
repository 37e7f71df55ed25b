"""What the package offers: each name once, documented, and nothing else."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from collections import Counter

import pytest

import virtdisk

MODULES = sorted(
    name
    for _, name, _ in pkgutil.iter_modules(virtdisk.__path__)
    if name not in ("_virtdisk", "__main__")
)
CALLABLES = ("function", "method", "property")


def module(name: str) -> types.ModuleType:
    return importlib.import_module(f"virtdisk.{name}")


def test_the_package_has_its_modules() -> None:
    assert {"_disk", "_errors", "_flags", "_volumes", "cli"} <= set(MODULES)


def test_dir_is_all() -> None:
    assert dir(virtdisk) == sorted(virtdisk.__all__)
    assert [name for name, n in Counter(virtdisk.__all__).items() if n > 1] == []
    for name in virtdisk.__all__:
        assert hasattr(virtdisk, name)


@pytest.mark.parametrize("name", MODULES)
def test_module_has_all_and_it_is_true(name: str) -> None:
    found = module(name)
    assert found.__all__ == sorted(found.__all__)
    assert len(set(found.__all__)) == len(found.__all__)
    for exported in found.__all__:
        assert hasattr(found, exported)
    assert found.__doc__


def test_each_name_is_defined_in_one_module() -> None:
    homes = Counter(
        exported
        for name in MODULES
        if name != "aio"  # the same verbs once more
        for exported in module(name).__all__
        if exported in virtdisk.__all__
    )
    of_the_package = {"__version__", "KiB", "MiB", "GiB", "TiB", "aio"}
    assert set(homes) == set(virtdisk.__all__) - of_the_package
    assert [name for name, count in homes.items() if count > 1] == []


def test_star_import_gives_the_same() -> None:
    space: dict[str, object] = {}
    exec("from virtdisk import *", space)
    assert set(space) - {"__builtins__"} == set(virtdisk.__all__)


def test_version_is_the_distribution_s() -> None:
    assert virtdisk.__version__ == importlib.metadata.version("virtdisk")
    assert re.fullmatch(r"\d+\.\d+\.\d+", virtdisk.__version__)


def documented() -> list[tuple[str, str, str]]:
    """Every public callable: its name, what it is, its docstring."""
    found = []
    for name in virtdisk.__all__:
        value = getattr(virtdisk, name)
        if inspect.isfunction(value):
            found.append((name, "function", value.__doc__ or ""))
        if not inspect.isclass(value) or issubclass(value, enum.Enum):
            continue
        found.append((name, "class", value.__doc__ or ""))
        for key, member in vars(value).items():
            if key.startswith("_"):
                continue
            if inspect.isfunction(member):
                found.append((f"{name}.{key}", "method", member.__doc__ or ""))
            if isinstance(member, property):
                found.append((f"{name}.{key}", "property", member.__doc__ or ""))
    return found


DOCUMENTED = documented()


@pytest.mark.parametrize(
    ("name", "kind", "text"), DOCUMENTED, ids=lambda v: str(v)[:40]
)
def test_docstring(name: str, kind: str, text: str) -> None:
    """A summary line; callables also say what they raise and their source."""
    summary = text.splitlines()[0]
    assert summary.endswith("."), summary
    assert len(text.splitlines()) == 1 or text.splitlines()[1] == ""
    if kind in CALLABLES and name != "VirtualDiskError.lines":
        assert "Raises" in text, f"{name} does not say what it raises"
        assert "Source:" in text, f"{name} does not name its source"


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name, kind, text in DOCUMENTED if kind in ("function", "method")],
    ids=lambda v: str(v)[:40],
)
def test_every_argument_is_described(name: str, text: str) -> None:
    owner, _, key = name.rpartition(".")
    function = getattr(getattr(virtdisk, owner) if owner else virtdisk, key)
    arguments = [
        argument
        for argument in inspect.signature(function).parameters
        if argument != "self"
    ]
    section = re.search(
        r"Args:\n(.*?)(?:\n\s*\n|\Z)", inspect.cleandoc(text), re.DOTALL
    )
    described = re.findall(r"^    (\w+):", section[1], re.MULTILINE) if section else []
    assert described == arguments


@pytest.mark.parametrize(
    "name",
    [n for n in virtdisk.__all__ if dataclasses.is_dataclass(getattr(virtdisk, n))],
)
def test_every_field_is_described(name: str) -> None:
    kind = getattr(virtdisk, name)
    text = inspect.cleandoc(kind.__doc__)
    section = re.search(r"Attributes:\n(.*)", text, re.DOTALL)
    assert section
    described = re.findall(r"^    (\w+):", section[1], re.MULTILINE)
    assert described == [field.name for field in dataclasses.fields(kind)]
    parameters = kind.__dataclass_params__
    assert parameters.frozen
    assert kind.__slots__
    signature = inspect.signature(kind)
    assert all(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values())


def test_errors_module_does_not_need_the_extension() -> None:
    """The extension imports it while the package is being imported."""
    code = (
        "import sys; sys.modules['virtdisk._virtdisk'] = None\n"
        "import importlib.util, types\n"
        "spec = importlib.util.find_spec('virtdisk')\n"
        "package = types.ModuleType('virtdisk')\n"
        "package.__path__ = spec.submodule_search_locations\n"
        "sys.modules['virtdisk'] = package\n"
        "from virtdisk._errors import error_from_code\n"
        "print(error_from_code(32, 'AttachVirtualDisk').name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout == "ERROR_SHARING_VIOLATION\n", done.stderr


def test_import_is_quiet_and_light() -> None:
    """Importing opens nothing and drags in no heavy module."""
    code = (
        "import sys, virtdisk\n"
        "heavy = {'argparse', 'json', 'subprocess', 'asyncio', 'typing_extensions'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
