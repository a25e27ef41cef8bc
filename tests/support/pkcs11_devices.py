# SPDX-License-Identifier: Apache-2.0
"""Real devices for tests: SoftHSM, and a TPM 2.0 emulated by swtpm. A missing one fails a test, and never skips it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from dpop.errors import DeviceError
from dpop.keys.pkcs11._modules import close_modules, find_module
from dpop.keys.pkcs11._uri import Pkcs11Uri

PIN = "1234"
SO_PIN = "12345678"
KEY = "dpop-es256"

_MAKE = "run `make test`, or `scripts/setup test` once before pytest"


def program(name: str) -> str:
    """Find the path of a program."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.fail(f"{name} is missing: {_MAKE}")
    return found


def module_named(name: str) -> str:
    """Find the path of a PKCS#11 module."""
    try:
        return find_module(Pkcs11Uri(module_name=name), {})
    except DeviceError:
        pytest.fail(f"the PKCS#11 module {name} is missing: {_MAKE}")


class Devices:
    """A module, its devices, and the environment variables that its users need."""

    def __init__(self, directory: Path, module: str, label: str, environment: Mapping[str, str]) -> None:
        self.directory = directory
        self.module = module
        self.label = label
        self.environment = dict(environment)
        self.pin_file = directory / "pin"
        self.pin_file.write_text(f"{PIN}\n")
        self.pin_file.chmod(0o600)

    def uri(
        self, name: str | None = KEY, *, device: str | None = None, module: str | None = None, pin: bool = True
    ) -> str:
        """The URI of a key, complete enough to sign."""
        path = f"token={quote(device or self.label)}" + ("" if name is None else f";object={quote(name)}")
        source = f"&pin-source={quote(str(self.pin_file))}" if pin else ""
        return f"pkcs11:{path}?module-path={quote(module or self.module)}{source}"

    def run(self, name: str, *arguments: str) -> str:
        """Run a program with these devices; return its output."""
        done = subprocess.run(
            [program(name), *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        return done.stdout

    def tool(self, *arguments: str, device: str | None = None, login: bool = True) -> str:
        """Run OpenSC's pkcs11-tool."""
        session = ["--login", "--pin", PIN] if login else []
        return self.run(
            "pkcs11-tool", "--module", self.module, "--token-label", device or self.label, *session, *arguments
        )

    def make_key(
        self, name: str, number: str, *more: str, device: str | None = None, kind: str = "EC:prime256v1"
    ) -> None:
        """Make a key pair by pkcs11-tool."""
        self.tool(
            "--keypairgen", "--key-type", kind, "--usage-sign", "--label", name, "--id", number, *more, device=device
        )


class SoftHsm(Devices):
    """SoftHSM with its own devices and one key."""

    def __init__(self, directory: Path) -> None:
        (directory / "tokens").mkdir()
        configuration = directory / "softhsm2.conf"
        configuration.write_text(f"directories.tokendir = {directory}/tokens\nlog.level = ERROR\n")
        super().__init__(directory, module_named("softhsm2"), "dpop", {"SOFTHSM2_CONF": str(configuration)})
        self.init_device(self.label)
        self.make_key(KEY, "01", "--sensitive")

    def init_device(self, label: str) -> None:
        """Initialise one more device. A running module does not see it, so all modules are ended."""
        self.run("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", SO_PIN)
        close_modules()


class NewTpm(Devices):
    """An empty TPM, emulated by swtpm."""

    def __init__(self, directory: Path) -> None:
        for name in ("state", "store"):
            (directory / name).mkdir()
        self.socket = directory / "tpm.sock"
        tcti = f"swtpm:path={self.socket}"
        super().__init__(
            directory,
            module_named("tpm2_pkcs11"),
            "tpm",
            {
                "TPM2_PKCS11_TCTI": tcti,
                "TPM2_PKCS11_STORE": str(directory / "store"),
                "TPM2_PKCS11_LOG_LEVEL": "0",
                "TSS2_LOG": "all+NONE",
                "TPM2TOOLS_TCTI": tcti,
            },
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Switch the TPM on, with its previous state."""
        with (self.directory / "swtpm.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(program("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={self.directory}/state"),
                    *("--server", f"type=unixio,path={self.socket}", "--ctrl", f"type=unixio,path={self.socket}.ctrl"),
                    *("--flags", "not-need-init,startup-clear"),
                ],
                stdout=log,
                stderr=log,
            )
        # There is no line to wait for: it answers once it can.
        for _ in range(600):
            if self._answers():
                return
            assert self.process.poll() is None, (self.directory / "swtpm.log").read_text()
        pytest.fail("swtpm does not answer")

    def stop(self) -> None:
        """Switch the TPM off by an orderly shutdown, because a TPM counts a power cut as a failed try."""
        if self.process is not None:
            self.run("tpm2_shutdown", "-c")
            self.process.terminate()
            self.process.wait()
            self.process = None

    def flush(self) -> None:
        """Flush the sessions and objects of dead processes, as a resource manager would."""
        for kind in ("-t", "-l", "-s"):
            self.run("tpm2_flushcontext", kind)

    def failed_tries(self) -> int:
        """The number of wrong PINs that the TPM has counted."""
        for line in self.run("tpm2_getcap", "properties-variable").splitlines():
            if "TPM2_PT_LOCKOUT_COUNTER" in line:
                return int(line.split(":")[1], 0)
        raise AssertionError("the TPM tells no TPM2_PT_LOCKOUT_COUNTER")

    def clear_lockout(self) -> None:
        """Reset the TPM's count of wrong PINs."""
        self.run("tpm2_dictionarylockout", "-c")

    def _answers(self) -> bool:
        environment = {**os.environ, **self.environment}
        command = [program("tpm2_getcap"), "properties-fixed"]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


class Tpm(NewTpm):
    """A TPM with a device and one key."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        tool = ("pkcs11-tool", "--module", self.module)
        self.run(*tool, "--init-token", "--slot-index", "0", "--label", self.label, "--so-pin", SO_PIN)
        so_login = ("--login", "--login-type", "so", "--so-pin", SO_PIN)
        self.run(*tool, "--token-label", self.label, *so_login, "--init-pin", "--new-pin", PIN)
        self.make_key(KEY, "01")
        self.flush()


@contextmanager
def devices_in(directory: Path, kind: Callable[[Path], Devices]) -> Iterator[Devices]:
    """Set the environment of these devices in this process, until the end."""
    made = kind(directory)
    before = {name: os.environ.get(name) for name in made.environment}
    close_modules()
    os.environ.update(made.environment)
    try:
        yield made
    finally:
        close_modules()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if isinstance(made, NewTpm):
            made.stop()


def in_another_process(code: str, devices: Devices, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these devices in another process."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **devices.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
