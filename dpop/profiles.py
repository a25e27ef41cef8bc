# SPDX-License-Identifier: Apache-2.0
"""Profiles: named records of the facts that differ between servers, for ``profile=``.

A profile describes a server, not a user. Its first part says what a client does for that server. Its second part, a
:class:`Behaviour`, says how the server itself acts, and :mod:`dpop.testing` acts in the same way, so that a client can
be tried against a server at which its developer has no account. ``RFC9449`` is the default and assumes nothing.

Each of the others is a TOML file in this package with the sources of its facts, read when it is first used, so that
``import dpop`` reads none. A file of your own has the same form::

    like = "okta"            # a profile to start from; RFC 9449 by default
    name = "our server"
    sources = ["https://as.example/docs"]

    [client]                 # the fields of Profile
    nonces = "required"

    [server]                 # the fields of Behaviour
    max_age = 120
"""

# No `from __future__ import annotations`: NamedTuple would compile the text of 80 annotations, at each start.

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

from dpop._files import toml_document
from dpop.errors import ArgumentTypeError, UsageError

__all__ = ["ATPROTO", "FAPI2", "GOOGLE", "NAMES", "RFC9449", "Behaviour", "Discipline", "Profile"]

NAMES: Final = (
    "rfc9449", "google", "okta", "auth0", "keycloak", "duende", "spring", "salesforce", "atproto", "solid",
    "singpass", "corppass", "helseid", "id-porten", "mcp", "fapi2",
)  # fmt: skip
"""The profiles of this package, for :meth:`Profile.load`, ``dpop --profile`` and ``dpop serve --mode``."""

Discipline = Literal["none", "rotating", "per-answer", "single-use", "endless", "endless-same"]
"""How a server treats its nonces.

- ``none``: it has none.
- ``rotating``: one nonce for all, until it lapses.
- ``per-answer``: each accepted request moves on to a new nonce.
- ``single-use``: each nonce is different and good for one request.
- ``endless``: every nonce is refused, each time with a new one; ``endless-same``: always with the same.
"""

_MAX_BYTES: Final = 65_536


class Behaviour(NamedTuple):  # a frozen dataclass of so many fields takes several times as long to make
    """How a server acts: the test server does the same. The defaults are a server by the book.

    ``_replace`` makes a variant.

    :param as_nonces: nonces of the authorization server, see :data:`Discipline`.
    :param rs_nonces: nonces of the API.
    :param nonce_grace: how many nonces before the newest ``rotating`` and ``per-answer`` go on accepting.
    :param nonce_seconds: nonces of those two also lapse after that long; ``None``: not by time.
    :param nonce_on_success: send ``DPoP-Nonce`` with a success only if the nonce has ``changed``, ``always`` or
        ``never``.
    :param nonces_for: the clients that the token endpoint asks for a nonce: ``all``, or ``public`` ones.
    :param exchange_nonce: whether a code exchange needs a nonce, where the token endpoint has nonces.
    :param max_age: seconds that ``iat`` may be in the past, at most 300.
    :param skew: seconds that ``iat`` may be in the future, at most 300.
    :param api_max_age: ``max_age`` of the API; ``None``: the same.
    :param api_skew: ``skew`` of the API; ``None``: the same.
    :param max_proof: characters of a proof, at most.
    :param require_proof: refuse token requests without a proof.
    :param missing_proof: the error code for a missing proof at the token endpoint; ``None``: as RFC 9449 has it.
    :param bad_proof: the error code for an invalid proof at the token endpoint.
    :param wrong_key: the error code for a proof by another key than the grant is bound to; ``None``: as RFC 9449
        has it.
    :param nonce_error: the error code that asks for a nonce.
    :param bound_tokens: access tokens are bound to the key. ``False``: they are Bearer tokens.
    :param bind_refresh_tokens: ``public``: refresh tokens of public clients are bound; ``always``: all are.
    :param refresh_tokens_for: the clients that get a refresh token: ``all``, or ``confidential`` ones.
    :param rotate_refresh_tokens: each refresh brings a new refresh token.
    :param token_lifetime: seconds an access token lives.
    :param says_scope: the token response has ``scope``.
    :param says_sub: the token response has ``sub``.
    :param require_pkce: refuse authorization requests without PKCE.
    :param require_par: refuse authorization requests that were not pushed (RFC 9126).
    :param require_jkt: refuse authorization requests that do not name the key, by ``dpop_jkt`` or a pushed proof.
    :param par_takes_proofs: look at the proof of a pushed authorization request.
    :param strict_audience: the ``aud`` of a client assertion must be the profile's; ``False``: the token endpoint
        will do too.
    :param strict_typ: the ``typ`` of a client assertion must be the profile's; ``False``: ``JWT``, or none,
        will do too.
    :param assertion_longest: seconds from ``iat`` to ``exp`` of a client assertion, at most.
    :param public_clients: clients without authentication are allowed.
    :param device_path: the path of the device authorization endpoint.
    :param device_uri: the member that names the page for the user.
    :param device_pending: the status of ``authorization_pending``.
    :param device_refused: the status of ``slow_down`` and ``access_denied``.
    :param api_takes_proofs: the API takes bound tokens. ``False``: Bearer tokens only.
    :param api_status: the status with which the API refuses a proof.
    :param api_wrong_key: the API's error code for a proof by another key than the token is bound to.
    :param api_bound_as_bearer: the API's error code for a bound token that came as Bearer.
    :param scheme_exact: the API reads ``DPoP`` in this spelling only.
    """

    as_nonces: Discipline = "rotating"
    rs_nonces: Discipline = "rotating"
    nonce_grace: int = 0
    nonce_seconds: float | None = None
    nonce_on_success: Literal["changed", "always", "never"] = "changed"
    nonces_for: Literal["all", "public"] = "all"
    exchange_nonce: Literal["required", "optional"] = "required"
    max_age: int = 60
    skew: int = 30
    api_max_age: int | None = None
    api_skew: int | None = None
    max_proof: int = 8192
    require_proof: bool = True
    missing_proof: str | None = None
    bad_proof: str = "invalid_dpop_proof"
    wrong_key: str | None = None
    nonce_error: str = "use_dpop_nonce"
    bound_tokens: bool = True
    bind_refresh_tokens: Literal["always", "public"] = "always"
    refresh_tokens_for: Literal["all", "confidential"] = "all"
    rotate_refresh_tokens: bool = False
    token_lifetime: int = 3600
    says_scope: bool = True
    says_sub: bool = False
    require_pkce: bool = True
    require_par: bool = False
    require_jkt: bool = False
    par_takes_proofs: bool = True
    strict_audience: bool = False
    strict_typ: bool = False
    assertion_longest: int = 3600
    public_clients: bool = True
    device_path: str = "/device_authorization"
    device_uri: Literal["verification_uri", "verification_url"] = "verification_uri"
    device_pending: int = 400
    device_refused: int = 400
    api_takes_proofs: bool = True
    api_status: int = 401
    api_wrong_key: str = "invalid_token"
    api_bound_as_bearer: str = "invalid_token"
    scheme_exact: bool = False


class Profile(NamedTuple):
    """The facts about one kind of server; ``_replace`` makes a variant.

    :param name: for people and logs.
    :param nonces: ``"required"`` if the server refuses every proof without a nonce: the first request
        then goes alone and the others wait for the nonce it brings. ``"auto"``: learn it when it comes;
        requests without one then wait for the first response, at most a second.
    :param algs: the algorithms the server accepts, ``None`` if it does not say.
    :param code_jti: a code exchange carries ``jti = BASE64URL(SHA256(code))``, also on its nonce retry.
    :param share_nonces: one nonce serves the token endpoint and the API of one origin.
    :param allow_bearer: the token endpoint may respond to a proof with a Bearer access token and bind only
        the refresh token (RFC 9449 §5). Elsewhere such a token is refused and is in the error.
    :param nonce_retries: how often one request is sent again because of its nonce, at most.
    :param serial: whether requests go one at a time, because the server takes only the newest nonce it gave; ``None``
        if it does not say.
    :param api_json_errors: an API of this server says ``use_dpop_nonce`` in a JSON body, not in ``WWW-Authenticate``.
    :param dpop_jkt: authorization requests name the key (RFC 9449 §10), unless the server's documentation does
        not mention that.
    :param login_parameters: what ``dpop login`` adds to authorization requests, each as ``NAME=VALUE``.
    :param signed_endpoints: the endpoints whose requests carry a proof, beside the token and the pushed authorization
        request endpoint: ``"revocation"``, ``"introspection"`` or ``"device_authorization"``.
    :param proof_life: seconds from ``iat`` to an ``exp`` in each proof; ``None``: no ``exp``, as RFC 9449 has it.
    :param assertion_audience: the ``aud`` of client assertions: the ``"issuer"`` or the ``"token_endpoint"``.
    :param assertion_typ: the ``typ`` of client assertions.
    :param assertion_life: seconds for which a client assertion is valid.
    :param assertion_nbf: client assertions have a ``nbf``, equal to their ``iat``.
    :param issuers: patterns of the issuers of such servers, such as ``https://*.example.com``, by which
        ``dpop doctor`` knows them.
    :param sources: where the facts come from.
    :param server: how the server acts.
    """

    name: str
    nonces: Literal["auto", "required"] = "auto"
    algs: tuple[str, ...] | None = None
    code_jti: bool = False
    share_nonces: bool = False
    allow_bearer: bool = False
    dpop_jkt: bool = True
    nonce_retries: int = 2
    api_json_errors: bool = False
    serial: bool | None = None
    login_parameters: tuple[str, ...] = ()
    signed_endpoints: tuple[str, ...] = ()
    proof_life: int | None = None
    assertion_audience: Literal["issuer", "token_endpoint"] = "issuer"
    assertion_typ: str = "client-authentication+jwt"
    assertion_life: int = 60
    assertion_nbf: bool = False
    issuers: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    server: Behaviour = Behaviour()

    def __repr__(self) -> str:
        return f"<Profile {self.name}>"

    @classmethod
    def load(cls, place: str | Path) -> "Profile":
        """Read a profile: one of :data:`NAMES`, or the TOML file at a path.

        :raises UsageError: there is none, or the file has a wrong key or value; the message names it.
        """
        if not isinstance(place, str | Path):
            raise ArgumentTypeError("place", "the name of a profile or the path of a TOML file", place)
        if isinstance(place, str) and place in NAMES:
            return _built_in(place)
        path = Path(place)
        if path.suffix != ".toml":
            near = _close_to(str(place), NAMES) or f"; there are {', '.join(NAMES)}."
            raise UsageError(f"there is no profile {str(place)!a:.60}{near} A file of your own ends in .toml")
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            raise UsageError(f"the profile {path} cannot be read: {getattr(error, 'strerror', error)}") from None
        if len(data) > _MAX_BYTES:
            raise UsageError(f"the profile {path} has more than {_MAX_BYTES} bytes")
        return _parsed(data, str(path))

    @classmethod
    def of(cls, profile: "Profile | str | Path") -> "Profile":
        """Return the profile itself, or load the one that a name or path stands for.

        :raises UsageError: as :meth:`load`.
        """
        if isinstance(profile, Profile):
            return profile
        if not isinstance(profile, str | Path):
            raise ArgumentTypeError("profile", "a Profile from dpop.profiles, its name, or a path", profile)
        return cls.load(profile)


RFC9449: Final = Profile("RFC 9449")
"""The protocol as written."""

# Read from their files by __getattr__.
GOOGLE: Profile
"""Google's token endpoint: the code names the first proof's ``jti``; refresh needs a nonce; access tokens
are Bearer, the refresh token is bound."""
ATPROTO: Profile
"""AT Protocol (Bluesky): nonces mandatory from the pushed authorization request on, ES256. Its server takes a token
back only with a proof, and reports success without one."""
FAPI2: Profile
"""FAPI 2.0 Security Profile §5.4.1."""


def __getattr__(name: str) -> Any:
    if name not in {"GOOGLE", "ATPROTO", "FAPI2"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, _built_in(name.lower()))


def __dir__() -> list[str]:
    return sorted(__all__)


_read: dict[str, Profile] = {"rfc9449": RFC9449}


def _built_in(name: str) -> Profile:
    profile = _read.get(name)
    if profile is None:
        from pkgutil import get_data  # noqa: PLC0415 - most programs read no profile

        data = get_data("dpop", f"_profiles/{name}.toml")
        assert data is not None  # noqa: S101 - a test reads them all
        # Two threads may read it at once; all get the one that is put there first.
        profile = _read.setdefault(name, _parsed(data, f"{name}.toml"))
    return profile


def _parsed(data: bytes, where: str) -> Profile:
    """Read a profile from TOML.

    :raises UsageError: not TOML, or a wrong key or value.
    """
    try:
        document = toml_document(data)
    except ValueError as error:
        raise UsageError(f"the profile {where} is not TOML: {error}") from None
    _check_names(document, ("name", "like", "sources", "client", "server"), f"the profile {where}")
    like = document.get("like", "rfc9449")
    if like not in NAMES:
        known = _close_to(str(like), NAMES) or f"; there are {', '.join(NAMES)}"
        raise UsageError(f"the profile {where} is like {like!a:.60}, which is no profile of this package{known}")
    start = _built_in(like)
    hints = get_type_hints(Profile)
    facts = _values(document.get("client", {}), hints, f"the profile {where}, [client]", _NOT_OF_CLIENTS)
    if any(not each.partition("=")[0] or "=" not in each for each in facts.get("login_parameters", ())):
        raise UsageError(f'the profile {where}, [client]: login_parameters must be like ["prompt=consent"]')
    own = {name: document[name] for name in ("name", "sources") if name in document}
    facts |= _values(own, hints, f"the profile {where}", frozenset())
    if "name" not in facts:
        raise UsageError(f'the profile {where} has no name; begin it with name = "..."')
    server = _values(
        document.get("server", {}), get_type_hints(Behaviour), f"the profile {where}, [server]", frozenset()
    )
    for name, highest in (("max_age", 300), ("skew", 300), ("api_max_age", 300), ("api_skew", 300)):
        if not 0 <= (server.get(name) or 0) <= highest:
            raise UsageError(f"the profile {where}, [server]: {name} must be 0 to {highest} seconds (RFC 9449 §11.1)")
    return start._replace(**facts, server=start.server._replace(**server))


_NOT_OF_CLIENTS: Final = frozenset({"name", "sources", "server"})


def _values(table: Any, hints: Mapping[str, Any], where: str, others: frozenset[str]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise UsageError(f"{where} must be a table")
    _check_names(table, [name for name in hints if name not in others], where)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    for name, value in values.items():
        if not _fits(hints[name], value):
            raise UsageError(f"{where}: {name} must be {_expected(hints[name])}, not {table[name]!a:.60}")
    return values


def _check_names(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for name in table:
        if name not in known:
            near = _close_to(name, known) or f"; expected some of {', '.join(known)}"
            raise UsageError(f"{where}: {name!a:.60} is not known{near}")


def _fits(hint: Any, value: object) -> bool:
    """Whether a value from TOML is of the type of a field."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and bool(value) and all(isinstance(each, str) for each in value)
    if hint in {bool, str}:
        return type(value) is hint
    if hint in {int, float}:
        return isinstance(value, int | hint) and not isinstance(value, bool) and value >= 0
    return any(_fits(each, value) for each in get_args(hint) if each is not type(None))


def _expected(hint: Any) -> str:
    """The values of a field, for a message."""
    if get_origin(hint) is Literal:
        return " or ".join(f'"{value}"' for value in get_args(hint))
    if get_origin(hint) is tuple:
        return "an array of strings"
    named = {bool: "true or false", str: "a string", int: "a whole number, 0 or more", float: "a number, 0 or more"}
    if hint in named:
        return named[hint]
    return " or ".join(_expected(each) for each in get_args(hint) if each is not type(None))


def _close_to(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the known word that is most like this one, or nothing."""
    from difflib import get_close_matches  # noqa: PLC0415 - only after a slip

    found = get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""
