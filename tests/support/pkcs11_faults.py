# SPDX-License-Identifier: Apache-2.0
"""A PKCS#11 module that fails by rules, built from pkcs11_faults.c with the system's compiler."""

from __future__ import annotations

import itertools
import struct
import subprocess
from pathlib import Path

import pytest
from support.pkcs11_devices import SoftHsm, program

from dpop.keys.pkcs11 import _pin as pin
from dpop.keys.pkcs11._modules import close_modules

SOURCE = Path(__file__).with_name("pkcs11_faults.c")
_PT_GNU_STACK = 0x6474E551
_editions = itertools.count()


def build(directory: Path) -> Path:
    """Compile the module."""
    library = directory / "pkcs11_faults.so"
    command = [
        program("cc"),  # gcc, clang or tcc
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Wstrict-prototypes",  # C23, the default from gcc 15 on, refuses calls through ()
        "-Werror",
        "-o",
        str(library),
        str(SOURCE),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _need_no_executable_stack(library)
    return library


def _need_no_executable_stack(library: Path) -> None:
    """Add the program header PT_GNU_STACK to a library made by tcc.

    A 64-bit ELF file without one asks for an executable stack, and from glibc 2.41 on dlopen refuses such a file.
    """
    octets = bytearray(library.read_bytes())
    if octets[:5] != b"\x7fELF\x02":
        return
    offset, (size, count) = struct.unpack_from("=Q", octets, 32)[0], struct.unpack_from("=HH", octets, 54)
    table = octets[offset : offset + size * count]
    if _PT_GNU_STACK in (struct.unpack_from("=I", table, at)[0] for at in range(0, len(table), size)):
        return
    octets += bytes(-len(octets) % 8)
    struct.pack_into("=Q", octets, 32, len(octets))
    struct.pack_into("=H", octets, 56, count + 1)
    readable_and_writable = 6
    octets += table + struct.pack("=II6Q", _PT_GNU_STACK, readable_and_writable, 0, 0, 0, 0, 0, 16)
    library.write_bytes(octets)


class Faults:
    """SoftHSM behind a module with fault rules; the rules end with the test."""

    def __init__(self, softhsm: SoftHsm, library: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.devices = softhsm
        self.library = str(library)
        self._rules = directory / "rules"
        self._log = directory / "log"
        self.environment = {
            "FAULT_MODULE": softhsm.module,
            "FAULT_RULES": str(self._rules),
            "FAULT_LOG": str(self._log),
        }
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        self.set()
        self.forget()

    def uri(self, name: str | None = "dpop-es256", *, device: str | None = None, pin: bool = True) -> str:
        """The URI of a key, through this module."""
        return self.devices.uri(name, device=device, module=self.library, pin=pin)

    def set(self, *rules: str) -> None:
        """Set the rules, and reset their counts."""
        temporary = self._rules.with_suffix(".new")
        temporary.write_text("".join(f"{line}\n" for line in (f"# {next(_editions)}", *rules)))
        temporary.replace(self._rules)

    def forget(self) -> None:
        """End all modules, and forget which PINs were refused, as a new process would have."""
        close_modules()
        pin._refused.clear()

    def calls(self, function: str = "") -> list[str]:
        """Return the calls since the previous call of this method, with arguments and results."""
        if not self._log.exists():
            return []
        lines = self._log.read_text().splitlines()
        self._log.unlink()
        return [line for line in lines if line.startswith(function)]

    def has_called(self, function: str) -> bool:
        """Whether there was such a call since the last :meth:`calls`; does not reset the record."""
        return self._log.exists() and any(line.startswith(function) for line in self._log.read_text().splitlines())
