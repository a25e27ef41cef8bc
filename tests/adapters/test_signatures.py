# SPDX-License-Identifier: Apache-2.0
"""What help() shows of an integration: each setting with its type, its default and a line of documentation."""

from __future__ import annotations

import importlib
import inspect
import pydoc
import re
from typing import Any

import httpx
import httpx2
import pytest
from requests.adapters import HTTPAdapter

import dpop
import dpop.aiohttp
import dpop.httpx
import dpop.httpx2
import dpop.requests
from dpop.client import Policy
from dpop.errors import UsageError
from dpop.tokens._grants import Grants

INTEGRATIONS = ["aiohttp", "asgi", "google", "httpx", "httpx2", "keyring", "redis", "requests", "starlette", "wsgi"]
PUBLIC = [
    dpop.aiohttp.DPoPClientMiddleware,
    dpop.aiohttp.AsyncTokenEndpoint,
    *(getattr(dpop.requests, name) for name in ("DPoPAdapter", "DPoPAuth", "TokenEndpoint")),
    *(
        getattr(library, name)
        for library in (dpop.httpx, dpop.httpx2)
        for name in ("DPoPTransport", "AsyncDPoPTransport", "DPoPAuth", "TokenEndpoint", "AsyncTokenEndpoint")
    ),
]
ADAPTERS: list[tuple[Any, Any]] = [
    (dpop.aiohttp.DPoPClientMiddleware, object),  # the settings of aiohttp are its session's
    (dpop.requests.DPoPAdapter, HTTPAdapter),
    (dpop.httpx.DPoPTransport, httpx.HTTPTransport),
    (dpop.httpx.AsyncDPoPTransport, httpx.AsyncHTTPTransport),
    (dpop.httpx2.DPoPTransport, httpx2.HTTPTransport),
    (dpop.httpx2.AsyncDPoPTransport, httpx2.AsyncHTTPTransport),
]
ENDPOINTS = [kind for kind in PUBLIC if "Endpoint" in kind.__name__]


def full_name(kind: Any) -> str:
    """Tells classes of one name apart."""
    return f"{kind.__module__}.{kind.__name__}"


def settings(kind: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a class that are given by name."""
    parameters = inspect.signature(kind).parameters.items()
    return {name: parameter for name, parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def defaults(kind: Any) -> dict[str, Any]:
    """All arguments of a class, and their defaults."""
    parameters = {} if kind is object else inspect.signature(kind).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


@pytest.mark.parametrize("kind", PUBLIC, ids=full_name)
def test_every_setting_is_named_typed_and_documented(kind: Any) -> None:
    """The signature has no ``**options``, and the docstring a line for each argument and no other."""
    parameters = inspect.signature(kind).parameters
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert all(parameter.annotation is not parameter.empty for parameter in parameters.values())
    assert set(re.findall(r":param (\w+):", inspect.getdoc(kind) or "")) == set(parameters)
    shown = pydoc.plain(pydoc.render_doc(kind))
    assert all(re.search(rf"\b{name}: ", shown) for name in parameters)


@pytest.mark.parametrize(("kind", "library"), ADAPTERS, ids=full_name)
def test_an_adapter_has_the_settings_of_a_policy_and_of_its_library(kind: Any, library: Any) -> None:
    """None is left out, and each has the default that it has there."""
    own = settings(kind)
    assert set(own) - {"transport"} == set(settings(Policy)) | set(defaults(library))
    expected = {**{name: each.default for name, each in settings(Policy).items()}, **defaults(library)}
    assert {name: own[name].default for name in expected} == expected
    assert {name: own[name].annotation for name in settings(Policy)} == {
        name: each.annotation for name, each in settings(Policy).items()
    }


@pytest.mark.parametrize("kind", ENDPOINTS, ids=full_name)
def test_an_endpoint_has_the_settings_of_its_grants(kind: Any) -> None:
    """None is left out, and each has the type and the default that it has there."""
    own = settings(kind)
    assert set(own) - {"http", "timeout", "learn_clock"} == set(settings(Grants))
    assert {name: (own[name].annotation, own[name].default) for name in settings(Grants)} == {
        name: (each.annotation, each.default) for name, each in settings(Grants).items()
    }


@pytest.mark.parametrize("name", INTEGRATIONS)
def test_a_module_shows_its_public_names_only(name: str) -> None:
    """``dir()`` is what completion offers."""
    module = importlib.import_module(f"dpop.{name}")
    assert dir(module) == sorted(module.__all__)


@pytest.mark.parametrize("kind", [kind for kind, _ in ADAPTERS], ids=full_name)
def test_an_unknown_setting_is_refused_with_the_nearest_name(kind: Any) -> None:
    """A misspelt setting of an adapter is an error of ours that says what was meant."""
    key = dpop.generate_key()
    with pytest.raises(UsageError, match=r"acces_token=; did you mean access_token=\?"):
        kind(key, origins="https://api.example", acces_token="t0ken")
    with pytest.raises(UsageError, match=rf"zzz=; help\({kind.__name__}\) lists its settings"):
        kind(key, origins="https://api.example", zzz=1)


@pytest.mark.parametrize("kind", ENDPOINTS, ids=full_name)
def test_an_unknown_setting_of_an_endpoint_is_refused_with_the_nearest_name(kind: Any) -> None:
    """A misspelt setting of a token endpoint is an error of ours that says what was meant."""
    with pytest.raises(UsageError, match=r"client_secrets=; did you mean client_secret=\?"):
        kind(dpop.generate_key(), "https://as.example/token", client_id="c", client_secrets="s")
