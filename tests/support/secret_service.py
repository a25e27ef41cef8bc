# SPDX-License-Identifier: Apache-2.0
"""A Secret Service for the tests, on a message bus of its own.

It is a process that does the part of freedesktop.org's Secret Service API that keyring and SecretStorage use, with one
keyring, which is open, in memory. GNOME's would bring a desktop's 112 packages with it.

The only algorithm is "plain", which the API demands of every service: secrets cross a private socket.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jeepney import HeaderFields, Message, MessageType, message_bus, new_error, new_method_return
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from support.message_bus import message_bus as running_bus

__all__ = ["secret_service"]

_NAME = "org.freedesktop.secrets"
_SECRET = "org.freedesktop.Secret."
_ROOT = "/org/freedesktop/secrets"
_COLLECTION = f"{_ROOT}/collection/login"
_NO_PROMPT = "/"


@contextlib.contextmanager
def secret_service() -> Iterator[str]:
    """Run a Secret Service; yield the address of its bus for ``DBUS_SESSION_BUS_ADDRESS``."""
    with running_bus() as address:
        process = subprocess.Popen(
            [sys.executable, "-m", "support.secret_service"],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": address},
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n", "the Secret Service ended before it was ready"
            yield address
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


class _Refused(Exception):  # noqa: N818 - an answer, not an accident
    """A D-Bus error to respond with."""


class _Keyring:
    """The one collection. Each method is a D-Bus method and returns the signature and the values of its response."""

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {}
        self.numbers = itertools.count(1)

    def answer(self, path: str, interface: str, member: str, body: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        if interface == "org.freedesktop.DBus.Properties" and member == "Get":
            return "v", (self.property(path, body[1]),)
        method = getattr(self, f"{interface.removeprefix(_SECRET)}_{member}", None)
        if method is None:
            raise _Refused("org.freedesktop.DBus.Error.UnknownMethod")
        if interface == f"{_SECRET}Item" and path not in self.items:
            raise _Refused(f"{_SECRET}Error.NoSuchObject")
        answer: tuple[str, tuple[Any, ...]] = method(path, *body)
        return answer

    def property(self, path: str, name: str) -> tuple[str, Any]:
        if path in {_COLLECTION, f"{_ROOT}/aliases/default"}:
            owner: dict[str, Any] = {"Label": "Login", "Items": list(self.items)}
        elif path in self.items:
            owner = self.items[path]
        else:
            raise _Refused(f"{_SECRET}Error.NoSuchObject")
        kinds = {"Label": "s", "Items": "ao", "Attributes": "a{ss}"}
        if name == "Locked":
            return "b", False
        if name not in kinds or name not in owner:
            raise _Refused("org.freedesktop.DBus.Error.UnknownProperty")
        return kinds[name], owner[name]

    def Service_OpenSession(self, _path: str, algorithm: str, _input: object) -> tuple[str, tuple[Any, ...]]:  # noqa: N802
        if algorithm != "plain":
            raise _Refused("org.freedesktop.DBus.Error.NotSupported")
        return "vo", (("s", ""), f"{_ROOT}/session/{next(self.numbers)}")

    def Service_Unlock(self, _path: str, paths: list[str]) -> tuple[str, tuple[Any, ...]]:  # noqa: N802
        return "aoo", (paths, _NO_PROMPT)

    def Collection_SearchItems(self, _path: str, attributes: dict[str, str]) -> tuple[str, tuple[Any, ...]]:  # noqa: N802
        return "ao", (self.matching(attributes),)

    def Collection_CreateItem(  # noqa: N802
        self, _path: str, properties: dict[str, tuple[str, Any]], secret: tuple[Any, ...], replace: bool
    ) -> tuple[str, tuple[Any, ...]]:
        label = properties[f"{_SECRET}Item.Label"][1]
        attributes = properties[f"{_SECRET}Item.Attributes"][1]
        same = [path for path in self.matching(attributes) if self.items[path]["Attributes"] == attributes]
        path = same[0] if replace and same else f"{_COLLECTION}/{next(self.numbers)}"
        self.items[path] = {"Label": label, "Attributes": attributes, "secret": secret[1:]}
        return "oo", (path, _NO_PROMPT)

    def Item_GetSecret(self, path: str, session: str) -> tuple[str, tuple[Any, ...]]:  # noqa: N802
        return "(oayays)", ((session, *self.items[path]["secret"]),)

    def Item_Delete(self, path: str) -> tuple[str, tuple[Any, ...]]:  # noqa: N802
        del self.items[path]
        return "o", (_NO_PROMPT,)

    def matching(self, attributes: dict[str, str]) -> list[str]:
        return [path for path, item in self.items.items() if attributes.items() <= item["Attributes"].items()]


def _answer(keyring: _Keyring, call: Message) -> Message:
    fields = call.header.fields
    path, interface, member = (
        fields.get(field, "") for field in (HeaderFields.path, HeaderFields.interface, HeaderFields.member)
    )
    try:
        return new_method_return(call, *keyring.answer(path, interface, member, call.body))
    except _Refused as refused:
        return new_error(call, str(refused), "s", (f"{interface}.{member}",))


def _serve(connection: DBusConnection) -> None:
    keyring = _Keyring()
    connection.send_and_get_reply(message_bus.RequestName(_NAME))
    print("ready", flush=True)
    while True:
        call = connection.receive()
        if call.header.message_type == MessageType.method_call:
            connection.send(_answer(keyring, call))


if __name__ == "__main__":
    with open_dbus_connection() as opened:
        _serve(opened)
