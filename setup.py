"""What pyproject.toml cannot say: the C sources, for which ABI, and the server."""

import os
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LINUX = sys.platform.startswith("linux")
if not LINUX and sys.platform != "win32":
    sys.exit(f"virtdisk runs on Windows and Linux, not on {sys.platform}.")

# The engine's layers, the lowest first, and what the library has of server/.
LAYERS = ["base", "format", "disk", "attach", "api"]
SHARED = ["channel", "fusermount", "spawn"]
# Free-threaded builds have no stable ABI yet.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")
STRICT = os.environ.get("VIRTDISK_WERROR") == "1" or os.environ.get("CI") == "true"


def c_files(folder: str) -> list[str]:
    """The C files right in there; always in one order, for builds to be alike."""
    return sorted(glob(f"{folder}/*.c"))


sources = c_files("src")
macros: list[tuple[str, str | None]] = [("Py_LIMITED_API", "0x030B0000")] * STABLE

if LINUX:
    for layer in LAYERS:
        sources += c_files(f"src/engine/{layer}")
    sources += [f"src/engine/server/{name}.c" for name in SHARED]
    macros.append(("_GNU_SOURCE", "1"))
    flags = ["-std=c11", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
    flags += ["-Wconversion", "-Wshadow", "-Wstrict-prototypes"] + ["-Werror"] * STRICT
else:
    macros += [("_WIN32_WINNT", "0x0A00"), ("WIN32_LEAN_AND_MEAN", "1")]
    # Not of our making: warnings about the headers of others, unused
    # parameters that a type demands (4100), functions in PyType_Slot (4152).
    flags = ["/std:c11", "/W4", "/external:anglebrackets", "/external:W0"]
    flags += ["/wd4100", "/wd4152"] + ["/WX"] * STRICT


class BuildWithServer(build_ext):
    """Builds the disk server too, into the same folder."""

    def build_extensions(self) -> None:
        """Compiles and links everything."""
        super().build_extensions()
        if LINUX:
            layers = [f"src/engine/{layer}/" for layer in ("base", "format", "disk")]
            lower = [name for name in sources if name.startswith(tuple(layers))]
            objects = self.compiler.compile(
                [*lower, *c_files("src/engine/server")],
                output_dir=os.path.join(self.build_temp, "server"),
                macros=[("_GNU_SOURCE", "1")],
                include_dirs=extension.include_dirs,
                extra_postargs=[*flags, "-UNDEBUG", "-fPIE"],
            )
            self.compiler.link_executable(
                objects,
                self.server_in(self.build_lib),
                extra_postargs=["-pthread", "-pie", "-Wl,-z,relro,-z,now"],
            )

    @staticmethod
    def server_in(folder: str) -> str:
        """Where the program is, below the folder that holds the package."""
        return os.path.join(folder, "virtdisk", "virtdisk-server")

    def get_output_mapping(self) -> dict[str, str]:
        """What an editable install finds where."""
        mapping = super().get_output_mapping()
        if LINUX and self.inplace:
            mapping[self.server_in(self.build_lib)] = self.server_in("")
        return mapping

    def get_outputs(self) -> list[str]:
        """All files that are built."""
        server = [self.server_in(self.build_lib)] if LINUX else []
        return sorted({*super().get_outputs(), *server})

    def copy_extensions_to_source(self) -> None:
        """For an editable install."""
        super().copy_extensions_to_source()
        if LINUX:
            self.copy_file(self.server_in(self.build_lib), self.server_in(""))


extension = Extension(
    "virtdisk._virtdisk",
    sources,
    depends=glob("src/**/*.h", recursive=True),
    include_dirs=["src/engine/include", "src/engine"] if LINUX else [],
    define_macros=macros,
    undef_macros=["NDEBUG"],  # the engine's assertions stay in
    extra_compile_args=flags,
    extra_link_args=["-pthread"] if LINUX else [],
    libraries=[] if LINUX else ["virtdisk", "advapi32"],
    py_limited_api=STABLE,
)
setup(
    cmdclass={"build_ext": BuildWithServer},
    ext_modules=[extension],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
