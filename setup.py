"""What pyproject.toml cannot say: the C sources, and for which ABI."""

import os
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup

LINUX = sys.platform.startswith("linux")
if not LINUX and sys.platform != "win32":
    sys.exit(f"virtdisk runs on Windows and Linux, not on {sys.platform}.")

# Each file by its name, the engine's lowest layer first.
BINDING = "_virtdisk _virtdisk_descriptor"
ENGINE = {
    "base": "crc32 crc32c error posix_file trace utf16",
    "format": "formats iso vhd vhd_bat vhd_batmap vhd_commit vhd_create vhd_footer"
    " vhd_header vhd_locator vhd_page vhd_recover vhd_write vhdx vhdx_bat vhdx_create"
    " vhdx_header vhdx_journal vhdx_locator vhdx_log vhdx_metadata vhdx_page"
    " vhdx_region vhdx_write",
    "disk": "disk disk_io host image_lock layer parent parent_path partition_gpt"
    " partition_mbr partition_table"
    " scsi scsi_blocks scsi_disk scsi_pages survey",
    "attach": "attach attached detach held live loop node partitions record registry"
    " surface_handle surface_loop surfaces text udev watch",
    "api": "attach detach event handles info last_error look multi_sz open operation"
    " overlapped parent paths raw_scsi sddl security security_access sid virtual_disk",
}
# Free-threaded builds have no stable ABI yet.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")
STRICT = os.environ.get("VIRTDISK_WERROR") == "1" or os.environ.get("CI") == "true"

sources = [f"src/{name}.c" for name in BINDING.split()]
macros: list[tuple[str, str | None]] = [("Py_LIMITED_API", "0x030B0000")] * STABLE

if LINUX:
    for layer, names in ENGINE.items():
        sources += [f"src/engine/{layer}/{name}.c" for name in names.split()]
    macros.append(("_GNU_SOURCE", "1"))
    flags = ["-std=c11", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
    flags += ["-Wconversion", "-Wshadow", "-Wstrict-prototypes"] + ["-Werror"] * STRICT
else:
    macros += [("_WIN32_WINNT", "0x0A00"), ("WIN32_LEAN_AND_MEAN", "1")]
    # Not of our making: warnings about the headers of others, unused
    # parameters that a type demands (4100), functions in PyType_Slot (4152).
    flags = ["/std:c11", "/W4", "/external:anglebrackets", "/external:W0"]
    flags += ["/wd4100", "/wd4152"] + ["/WX"] * STRICT

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
    ext_modules=[extension],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE else {},
)
