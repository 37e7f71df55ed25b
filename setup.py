"""What pyproject.toml cannot say: the C sources, and for which ABI."""

import os
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup

LINUX = sys.platform.startswith("linux")
if not LINUX and sys.platform != "win32":
    sys.exit(f"virtdisk runs on Windows and Linux, not on {sys.platform}.")

BINDING = ["src/_virtdisk.c", "src/_virtdisk_descriptor.c"]
# Each file by its name, lowest layer first: the map of the engine.
ENGINE = {
    "base": ["crc32", "error", "posix_file", "trace", "utf16"],
    "format": ["formats", "iso", "vhd", "vhd_footer"],
    "disk": ["disk", "host", "image_io", "image_lock"]
    + ["partition_gpt", "partition_mbr", "partition_table"],
    "attach": ["attach"],
    "api": ["open"],
}
# Free-threaded builds have no stable ABI yet.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")
STRICT = os.environ.get("VIRTDISK_WERROR") == "1" or os.environ.get("CI") == "true"

macros: list[tuple[str, str | None]] = []
if STABLE:
    macros.append(("Py_LIMITED_API", "0x030B0000"))

if LINUX:
    warnings = "-Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes".split()
    extension = Extension(
        "virtdisk._virtdisk",
        BINDING + [f"src/engine/{d}/{f}.c" for d, names in ENGINE.items() for f in names],
        depends=glob("src/**/*.h", recursive=True),
        include_dirs=["src/engine/include", "src/engine"],
        define_macros=[*macros, ("_GNU_SOURCE", "1")],
        extra_compile_args=["-std=c11", "-fvisibility=hidden", "-pthread", *warnings]
        + ["-Werror"] * STRICT,
        extra_link_args=["-pthread"],
        py_limited_api=STABLE,
    )
else:
    # Warnings about other people's headers are not ours.  4100: a parameter
    # that the caller's type demands; 4152: functions in PyType_Slot.
    warnings = "/W4 /wd4100 /wd4152 /external:anglebrackets /external:W0".split()
    extension = Extension(
        "virtdisk._virtdisk",
        BINDING,
        depends=glob("src/*.h"),
        define_macros=[*macros, ("_WIN32_WINNT", "0x0A00"), ("WIN32_LEAN_AND_MEAN", "1")],
        extra_compile_args=["/std:c11", *warnings] + ["/WX"] * STRICT,
        libraries=["virtdisk", "advapi32"],
        py_limited_api=STABLE,
    )

setup(
    ext_modules=[extension],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
