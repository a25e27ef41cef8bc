# SPDX-License-Identifier: Apache-2.0
"""The PKCS#11 modules of this process: find, load once, start, restart and end them.

A module belongs to the whole process: if one part of a program ends it, it has ended for all other parts. So each
module is loaded and initialised once, and finalised only at exit, and only if it was initialised here.
"""

from __future__ import annotations

import atexit
import contextlib
import glob
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol, TypeVar

from dpop._forking import at_fork
from dpop.errors import DeviceError, ForkedKeyError
from dpop.keys.pkcs11._cryptoki import CKR, CryptokiError, Module, ModuleLoadError
from dpop.keys.pkcs11._errors import WANTS_PARAMETERS
from dpop.keys.pkcs11._uri import Pkcs11Uri

__all__ = [
    "ENVIRONMENT",
    "PATIENCE",
    "LoadedModule",
    "Pausable",
    "SessionHandle",
    "close_modules",
    "find_module",
    "open_module",
]

ENVIRONMENT: Final = "PKCS11_MODULE"
"""The environment variable that names the module for URIs without a module."""

_T = TypeVar("_T")

_DIRECTORIES: Final = (
    "/usr/lib/*/pkcs11",
    "/usr/lib64/pkcs11",
    "/usr/lib/pkcs11",
    "/usr/local/lib/pkcs11",
    "/opt/homebrew/lib/pkcs11",
    "/usr/lib/softhsm",
    "/usr/lib64/softhsm",
    "/usr/local/lib/softhsm",
    "/opt/homebrew/lib/softhsm",
    "/usr/lib/*",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/opt/homebrew/lib",
    "/Library/OpenSC/lib",
    # OpenSC, Yubico's tool and SoftHSM on Windows.
    "C:/Program Files/OpenSC Project/OpenSC/pkcs11",
    "C:/Program Files/Yubico/Yubico PIV Tool/bin",
    "C:/SoftHSM2/lib",
)
_NAMES: Final = ("lib{}.so", "{}.so", "lib{}.so.1", "lib{}.dylib", "{}.dylib", "{}.dll", "lib{}.dll", "{}-x64.dll")
_DEFAULT: Final = "p11-kit-proxy"  # loads all modules that are registered on the system

# Return values of a module that must be restarted, because its device restarted or other code has finalised it.
_STALE: Final = frozenset({CKR.GENERAL_ERROR, CKR.DEVICE_ERROR, CKR.CRYPTOKI_NOT_INITIALIZED})
PATIENCE: Final = (0.02, 0.06)
"""Seconds to wait before the second and third attempt: a file of SoftHSM is empty while another process logs in."""
_RESTART_SECONDS: Final = 1.0
_DRAIN_SECONDS: Final = 10.0


def find_module(uri: Pkcs11Uri, environment: Mapping[str, str] = os.environ) -> str:
    """Find the path of the module for a URI: from the URI, from ``PKCS11_MODULE``, or p11-kit's proxy.

    :raises DeviceError: no module of that name is in the usual directories.
    """
    if uri.module_path is not None:
        return uri.module_path
    if uri.module_name is None and environment.get(ENVIRONMENT):
        return environment[ENVIRONMENT]
    name = uri.module_name or _DEFAULT
    for pattern in _DIRECTORIES:
        for directory in sorted(glob.glob(pattern)):  # noqa: PTH207 - patterns from the root
            for form in _NAMES:
                path = Path(directory, form.format(name))
                if path.is_file():
                    return str(path)
    if uri.module_name is not None:
        raise DeviceError("the URI's module-name is not in the usual directories; give its module-path")
    raise DeviceError(
        "the URI names no PKCS#11 module, and p11-kit, which would find one, is not installed; add"
        f" ?module-path=/path/to/module.so to the URI, or set {ENVIRONMENT}"
    )


class Pausable(Protocol):
    """The protocol of a module's users: each can stop using the module for some time."""

    def pause(self, timeout: float) -> bool:
        """Start no new signature, and wait until none is running; False if that took too long."""

    def resume(self, *, restarted: bool) -> None:
        """Allow signatures again; ``restarted`` says whether all sessions are gone."""

    def end(self) -> None:
        """Never start a signature again."""


class SessionHandle(int):
    """The number of one session; a later session with the same number has a different object."""

    __slots__ = ()


class LoadedModule:
    """One initialised module of this process.

    :param path: the path of the shared library, as for :func:`open_module`.
    :param parameters: the value for pReserved, if the module needs one.
    :param clock: seconds, monotonic.
    :raises DeviceError: the module cannot be loaded or does not start.
    """

    def __init__(
        self,
        path: str,
        parameters: str | None = None,
        *,
        module: Module | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self.parameters = parameters
        self.pid: int = os.getpid()
        self.lock: threading.RLock = threading.RLock()
        """Held while a thread searches or makes objects, or gives the PIN."""
        self.users: weakref.WeakSet[Pausable] = weakref.WeakSet()
        """The users of this module; add one with the lock held, together with its first session."""
        self.generation: int = 0
        self.ended: bool = False
        """Whether :meth:`ending` was called. After that, no work begins, and the module never starts again."""
        self._sessions: dict[int, SessionHandle] = {}
        self._clock = clock
        self._sleep = sleep
        self._restarting = threading.Lock()
        self._restarted_at = -_RESTART_SECONDS
        self.module: Module = _load(path) if module is None else module
        try:
            self._owned = self.module.initialize(parameters)
        except CryptokiError as error:
            if error.rv == CKR.ARGUMENTS_BAD:
                what = WANTS_PARAMETERS
            else:
                what = "check its configuration, and that its device or service is there"
            raise DeviceError(
                f"the PKCS#11 module {path!r} does not start ({error.name}); {what}", error.name
            ) from None

        self._description = ""
        with contextlib.suppress(CryptokiError):
            self._description = self.module.info().description

    def recovering(self, action: Callable[[], _T]) -> _T:
        """Call ``action``; if the module has lost its device, restart the module and call again, at most twice.

        ``action`` must not use a pool of sessions.

        :raises CryptokiError: the module still reports an error.
        """
        for seconds in PATIENCE:
            generation = self.generation
            try:
                return action()
            except CryptokiError as error:
                if error.rv not in _STALE:
                    raise
                self._sleep(seconds)
                if not self.refresh() and not self.restart(generation, error.rv):
                    raise
        return action()

    def open_session(self, slot: int, *, writable: bool) -> SessionHandle:
        """C_OpenSession; call it with the lock held.

        :raises DeviceError: the module was ended.
        """
        self.check_not_ended()
        handle = SessionHandle(self.module.open_session(slot, writable=writable))
        self._sessions[handle] = handle
        return handle

    def has_session(self, handle: SessionHandle) -> bool:
        """Whether the handle still means the session that was opened, as far as this process knows.

        A session ends when its device or module does, and a later session may get its number. A thread that then signed
        in the old session, or closed it, would disturb another thread, and some modules crash in that case.
        """
        return self._sessions.get(handle) is handle

    def close_session(self, handle: SessionHandle) -> None:
        """C_CloseSession, unless the number belongs to another session by now.

        :raises CryptokiError: the module reported an error.
        """
        with self.lock:  # keeps C_Finalize away
            if self.has_session(handle):
                del self._sessions[handle]
                self.module.close_session(handle)

    def _finalize(self) -> None:
        """C_Finalize, which ends all sessions; no error if the module is finalised already. Call with the lock held."""
        self._sessions.clear()
        with contextlib.suppress(CryptokiError):
            self.module.finalize()

    def refresh(self) -> bool:
        """Finalise and initialise the module if no key of this process uses it; False if nothing was done.

        Some modules search for devices only when they are initialised.
        """
        with self.lock:
            if self.ended or not self._owned or len(self.users) or _share_a_library():
                return False
            self._finalize()
            self._owned = self.module.initialize(self.parameters)
            self.generation += 1
            return True

    def restart(self, generation: int, rv: int) -> bool:
        """Finalise and initialise the module if that may help; True if new sessions may be opened.

        :param generation: :attr:`generation` before the failed call; a change means that another thread restarted it.
        :param rv: the return value of the failed call.
        """
        if rv not in _STALE:
            return False
        with self._restarting:
            if self.ended:
                return False
            if self.generation != generation:
                return True
            if (not self._owned and rv != CKR.CRYPTOKI_NOT_INITIALIZED) or _share_a_library():
                return False  # other users in this process would lose their sessions, and some would crash
            if self._clock() - self._restarted_at < _RESTART_SECONDS:
                return False
            return self._restart()

    def _restart(self) -> bool:
        self._restarted_at = self._clock()
        paused: list[Pausable] = []
        done = False
        try:
            with self._quiet(paused, drain=_DRAIN_SECONDS) as quiet:
                if quiet:
                    self._finalize()
                    self._owned = self.module.initialize(self.parameters)
                    self.generation += 1
                    done = True
        except CryptokiError:
            pass  # the module does not start: its device is still missing
        finally:
            for user in paused:
                user.resume(restarted=done)
        return done

    @contextlib.contextmanager
    def ending(self, timeout: float) -> Iterator[bool]:
        """Allow no new signatures; yield whether all running ones have ended, after at most ``timeout`` seconds."""
        self.ended = True
        paused: list[Pausable] = []
        # Without this lock, a restart at the same time would resume the users that are paused here.
        held = self._restarting.acquire(timeout=timeout)
        try:
            with self._quiet(paused, drain=timeout, lock_within=timeout) as quiet:
                yield held and quiet
        finally:
            if held:
                self._restarting.release()
            for user in {*paused, *self.users}:
                user.end()

    def finalize(self) -> None:
        """Finalise the module if this object initialised it; call within :meth:`ending`."""
        if self._owned:
            self._finalize()

    @property
    def gives_other_modules(self) -> bool:
        """Whether the module is p11-kit's proxy, which loads all modules that the system knows."""
        return self._description.startswith("PKCS#11 Kit")

    @contextlib.contextmanager
    def _quiet(self, paused: list[Pausable], *, drain: float, lock_within: float = -1) -> Iterator[bool]:
        """Pause all users and hold the lock; yield False, without the lock, if it took too long.

        :param paused: a list that gets each paused user; the caller must resume or end them.
        :param drain: seconds to wait for each user's running signatures.
        :param lock_within: seconds to wait for the lock, which is held while a person is asked for a PIN.
        """
        while self.lock.acquire(timeout=lock_within):
            try:
                # The thread that held the lock before may have opened another key.
                new = [user for user in self.users if user not in paused]
                if not new:
                    yield True
                    return
            finally:
                self.lock.release()
            # Release the lock first: a thread that is opening a session needs it to finish.
            paused += new
            if not all([user.pause(drain) for user in new]):  # noqa: C419 - pause every user
                break
        yield False

    @contextlib.contextmanager
    def at_rest(self, timeout: float) -> Iterator[None]:
        """Pause all use of the module during a fork; after ``timeout`` seconds, go on without the pause.

        A child inherits the locks in the module's own code. A lock that another thread holds during the fork is never
        released in the child, which then hangs at its exit.
        """
        paused: list[Pausable] = []
        held = self._restarting.acquire(timeout=timeout)  # a restart and an end pause and resume too
        try:
            with self._quiet(paused, drain=timeout, lock_within=timeout):
                yield
        finally:
            if held:
                self._restarting.release()
            # The child does not use these users, and their locks may never be released there.
            if os.getpid() == self.pid:
                for user in paused:
                    user.resume(restarted=False)

    def check_not_ended(self) -> None:
        """Raise an error if the module was ended; call with the lock held, before new work.

        :raises DeviceError: the module was ended.
        """
        if self.ended:
            raise DeviceError(_ENDED)


_ENDED: Final = (
    "the PKCS#11 module was ended, by close_modules() or because the program ends; if the program goes on, open the"
    " key again"
)

# Refused even if the module would start again in the child: through p11-kit, a TPM's module would then continue the
# parent's session, and the TPM would take that for an attack.
_FORKED: Final = (
    "the PKCS#11 module was started before this process was forked, and its device knows only the parent: open the key"
    " in each child, and nothing of the device before the fork (gunicorn: post_fork; multiprocessing: spawn)"
)

_registry: dict[str, LoadedModule] = {}
_registry_lock = threading.Lock()
_at_end = False


def _load(path: str) -> Module:
    try:
        return Module(path)
    except ModuleLoadError as error:
        raise DeviceError(f"the PKCS#11 module {path!r} cannot be used: {error}") from None


def open_module(path: str, parameters: str | None = None) -> LoadedModule:
    """Return the module at a path, loaded and initialised once in this process.

    :param parameters: the value for pReserved. A running module keeps the value it was started with.
    :raises DeviceError: the module cannot be loaded or does not start, or the program is ending.
    :raises ForkedKeyError: the module was started before this process was forked.
    """
    key = os.path.realpath(path) if os.sep in path else path
    with _registry_lock:
        if _at_end:
            raise DeviceError(_ENDED)
        loaded = _registry.get(key)
        if loaded is None:
            module = _load(path)
            same = (other for other in _registry.values() if other.module.identity == module.identity)
            loaded = next(same, None) or LoadedModule(path, parameters, module=module)
            _registry[key] = loaded
        if loaded.pid != os.getpid():
            raise ForkedKeyError(_FORKED)
        if parameters not in {None, loaded.parameters}:
            raise DeviceError(
                f"the PKCS#11 module {path!r} already runs in this process with another x-init-reserved; it takes one"
            )
        return loaded


def _share_a_library() -> bool:
    """Whether two modules of this process may be the same library: p11-kit's proxy, and a module that it loads."""
    modules = {loaded for loaded in list(_registry.values()) if loaded.pid == os.getpid()}
    return len(modules) > 1 and any(loaded.gives_other_modules for loaded in modules)


def close_modules(timeout: float = 2.0) -> None:
    """End all PKCS#11 modules of this process, as at its exit. Their keys cannot sign any more.

    Otherwise a device would keep its sessions, and some devices allow only a few. A key that is opened later starts
    its module again.

    :param timeout: seconds to wait until no other thread uses a module. A module that is still in use is not ended.
    """
    if not _registry_lock.acquire(timeout=timeout):
        return  # another thread is still starting a module
    try:
        modules = {loaded for loaded in _registry.values() if loaded.pid == os.getpid()}
        shared = _share_a_library()
        with contextlib.ExitStack() as stack:
            # Pause all modules before the first is ended: it may be the library that another one uses.
            quiet = {loaded: stack.enter_context(loaded.ending(timeout)) for loaded in modules}
            for loaded in sorted(modules, key=lambda loaded: not loaded.gives_other_modules):
                # Do not finalise a module that is in use: most modules crash then.
                if quiet[loaded] and (all(quiet.values()) or not shared):
                    loaded.finalize()
        _registry.clear()
    finally:
        _registry_lock.release()


_FORK_SECONDS: Final = 2.0
_fork_lock = threading.Lock()
_at_rest = contextlib.ExitStack()


def _before_fork() -> None:
    """Pause every module before a fork; a device that waits for a person delays the fork by two seconds at most."""
    for lock in (_fork_lock, _registry_lock):
        if lock.acquire(timeout=_FORK_SECONDS):
            _at_rest.callback(lock.release)
    for loaded in set(_registry.values()):
        if loaded.pid == os.getpid():
            _at_rest.enter_context(loaded.at_rest(_FORK_SECONDS))


def _after_fork() -> None:
    _at_rest.pop_all().close()


def _in_child() -> None:
    global _registry_lock, _fork_lock
    _after_fork()
    _registry_lock, _fork_lock = threading.Lock(), threading.Lock()


def _close_at_exit() -> None:
    """End all modules, and start no module again: a daemon thread would use it while the process ends."""
    global _at_end  # noqa: PLW0603 - a fact about the process
    _at_end = True
    close_modules()


atexit.register(_close_at_exit)
at_fork(before=_before_fork, in_parent=_after_fork, in_child=_in_child)
