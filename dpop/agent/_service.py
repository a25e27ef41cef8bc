# SPDX-License-Identifier: Apache-2.0
"""Serve the agent's requests: which key, for whom, and whether its rules allow it. No socket is touched here."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dpop.agent._accounts import Account, Accounts
from dpop.agent._askpass import askpass_program, confirmed
from dpop.agent._assertions import read_assertion
from dpop.agent._held import Ask, HeldKey
from dpop.agent._logins import AgentLogins
from dpop.agent._nonces import NonceReport, SharedNonces
from dpop.agent._peer import Peer
from dpop.agent._process import is_dumpable
from dpop.agent._proofs import read_proof
from dpop.agent._protocol import VERSION, Refusal, Request, refused
from dpop.agent._rules import AgentRules, KeyRules
from dpop.encoding import b64url_encode
from dpop.errors import AgentLockedError, DPoPError, DPoPKeyError, TokenError, TokenStoreError, UsageError
from dpop.origin import Origin
from dpop.redaction import redact
from dpop.tokens._token_set import TokenSet

__all__ = ["Audit", "Service"]

Audit = Callable[[Mapping[str, Any]], object]

_MAX_KEYS: Final = 64

# What changes the agent is for its own user, and for root, who could do it anyway.
_FOR_THE_OWNER: Final = frozenset({"add", "lock", "login", "logout", "unlock", "reload", "stop", "status"})

# What a login says of its client, and what of its tokens.
_CLIENT: Final = (
    *("token_endpoint", "client_id", "client_secret", "client_auth", "profile", "issuer", "revocation_endpoint"),
    *("grant", "scope", "client_assertion"),
)
_CLIENT_AUTH: Final = ("none", "client_secret_basic", "client_secret_post", "private_key_jwt")
_TOKENS: Final = (
    *("access_token", "token_type", "refresh_token", "scope", "issued_at", "expires_at", "refresh_expires_at"),
    *("token_endpoint", "client_id"),
)


class Service:
    """The agent's keys, and what may be done with them.

    :param stop: ends the agent.
    :param connections: how many there are.
    """

    def __init__(
        self,
        rules: AgentRules,
        *,
        read: Callable[[], AgentRules] | None,
        ask: Ask | None,
        audit: Audit | None,
        clock: Callable[[], float],
        stop: Callable[[], None],
        connections: Callable[[], int],
        logins: AgentLogins | None = None,
    ) -> None:
        self._rules = rules
        self._read = read
        self._audit = audit
        self._clock = clock
        self.end_agent = stop
        self._connections = connections
        self._own = os.geteuid()
        self._keys: dict[str, HeldKey] = _opened(self._rules, {}, self._own, ask)
        self._changing = threading.Lock()  # held while keys are added, forgotten, or opened again
        self._problem: str | None = None
        self._started = clock()
        self._locked = False
        self._used = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._nonces = SharedNonces()
        self.accounts = Accounts(logins, key_of=self._key_of, sign=self._sign_refresh, clock=clock)

    def lock(self) -> None:
        """Forget all keys, until :meth:`unlock`."""
        with self._changing:
            self._locked = True
            self._forget()

    def unlock(self, ask: Ask | None = None) -> None:
        """Open all keys again.

        :raises DPoPKeyError: one of them cannot be opened. Those opened before it can sign.
        """
        with self._changing:
            for held in list(self._keys.values()):
                held.open(ask)
            self._used = time.monotonic()
            self._locked = False
        self.accounts.look_again()

    def reload(self) -> str | None:
        """Read the rules anew. If anything is wrong with them, nothing changes, and the problem is returned."""
        if self._read is None:
            return "the agent was started without a rules file"
        with self._changing:
            try:
                rules = self._read()
                keys = _opened(rules, self._keys, self._own, None)
            except DPoPError as error:
                self._problem = str(error)
                return self._problem
            self._keys, self._rules, self._problem = keys, rules, None
            if self._locked:
                self._forget()
        self.accounts.look_again()
        return None

    def _forget(self) -> None:
        for held in self._keys.values():
            held.forget()
        if "dpop.keys.pkcs11" in sys.modules and any(
            "pkcs11:" in held.rules.uri.lower() for held in self._keys.values()
        ):
            from dpop.keys.pkcs11 import close_modules  # noqa: PLC0415 - only where a device was used

            close_modules()  # or a device would stay logged in

    def until_lock(self) -> float | None:
        """Seconds until the keys are to be forgotten; None if never. Forgets them when it is time."""
        limit = self._rules.lock_after
        if limit is None or self._locked:
            return None
        left = self._used + limit - time.monotonic()
        if left > 0:
            return left
        self.lock()
        return None

    def admits(self, peer: Peer) -> bool:
        """Whether this peer may speak to the agent at all."""
        return (
            peer.uid in {self._own, 0}
            or any(held.serves(peer) for held in list(self._keys.values()))
            or any(self._has_account(account, peer) for account in self.accounts.all())
        )

    # --- requests

    def respond(self, request: Request, peer: Peer, executable: str) -> dict[str, Any]:
        """Serve one request.

        :raises Refusal: it is refused.
        """
        if request.op in _FOR_THE_OWNER and peer.uid not in {self._own, 0}:
            raise Refusal("denied", f"{request.op} is for the agent's own user")
        try:
            if request.op == "sign":
                return self._sign(request.members, peer, executable)
            if request.op == "token":
                return self._token(request.members, peer, executable)
            return self._others[request.op](self, request.members, peer)
        except AgentLockedError as error:
            raise Refusal("locked", str(error)) from None
        except DPoPKeyError as error:
            raise Refusal("key_failed", str(error), reason=error.code) from None
        except TokenError as error:
            raise self._token_failed(error, peer) from None
        except UsageError as error:
            raise Refusal("bad_request", str(error)) from None

    def _held(self, name: str, peer: Peer) -> HeldKey:
        held = self._keys.get(name)
        if held is None or not held.serves(peer):
            # One message for both: a user who may not use a key need not learn that it exists.
            raise Refusal("unknown_key", f"there is no key {name} for this user; dpop agent list shows which there are")
        return held

    def _sign(self, members: Mapping[str, Any], peer: Peer, executable: str) -> dict[str, Any]:
        name, text = members["key"], members["input"]
        event = {"key": name, "pid": peer.pid, "uid": peer.uid, "exe": executable}
        try:
            held = self._held(name, peer)
            signature = self._signed(held, text, event, members.get("learnt", ()), peer)
        except (Refusal, DPoPKeyError) as error:
            self._note_refusal(event, error)
            raise
        self._used = time.monotonic()
        return {"signature": b64url_encode(signature)}

    def _signed(
        self,
        held: HeldKey,
        text: str,
        event: dict[str, Any],
        learnt: Iterable[Mapping[str, Any]] = (),
        peer: Peer | None = None,
    ) -> bytes:
        """Sign what the rules of the key allow, and put it on record.

        :param event: gets what is known of the proof.
        :param peer: who asks; None for the agent itself.
        """
        event["jkt"] = held.jkt
        if not held.is_open:
            raise _locked()
        if held.rules.client_id is not None:
            return self._signed_assertion(held, held.rules.client_id, text, event)
        proof = read_proof(text, held.alg, held.jwk)
        origin = str(proof.origin)
        event |= {"method": proof.method, "origin": origin}
        held.check(proof, self._clock())
        signature = _sign(held, text, origin)
        if peer is not None:
            if proof.nonce is not None:
                self._nonces.used(held.jkt, peer.uid, origin, proof.nonce)
            self._learn_nonces(held, peer, learnt)
        self._note_signature(event, proof.jti)
        return signature

    def _signed_assertion(self, held: HeldKey, client_id: str, text: str, event: dict[str, Any]) -> bytes:
        assertion = read_assertion(text, held.alg, client_id)
        origins = " ".join(map(str, assertion.origins))
        event |= {"client_id": client_id, "origin": origins}
        held.check_assertion(assertion, self._clock())
        signature = _sign(held, text, origins)
        self._note_signature(event, assertion.jti)
        return signature

    def _note_signature(self, event: Mapping[str, Any], jti: str) -> None:
        self._record({"event": "signed", **event, "jti": jti}, "signature")
        self._counts["signed"] += 1

    # --- access tokens

    def _key_of(self, jkt: str) -> HeldKey | None:
        return next((held for held in list(self._keys.values()) if held.jkt == jkt), None)

    def _has_account(self, account: Account, peer: Peer) -> bool:
        """Whether the peer may have this account's tokens: those whom its rules name, else those of its key."""
        rules = next((each for each in self._rules.accounts if each.name == account.name), None)
        if rules is None or not (rules.uids or rules.gids):
            return account.key.serves(peer)
        return peer.uid in set(rules.uids) or not peer.gids.isdisjoint(rules.gids)

    def _account(self, name: str, peer: Peer) -> Account:
        account = self.accounts.find(name)
        if account is None or not self._has_account(account, peer):
            # One message for both, as for keys.
            raise Refusal(
                "unknown_account",
                f"there is no account {name} for this user; dpop agent list shows which there are, and dpop login"
                " --agent adds one",
            )
        if not account.key.is_open:
            raise _locked()
        return account

    def _token(self, members: Mapping[str, Any], peer: Peer, executable: str) -> dict[str, Any]:
        name = members["account"]
        event = {"account": name, "pid": peer.pid, "uid": peer.uid, "exe": executable}
        try:
            account = self._account(name, peer)
            event |= {"key": account.key.rules.name, "jkt": account.key.jkt}
            tokens = self.accounts.tokens(account, members.get("refused"), peer.uid)
            self._account(name, peer)  # the agent may have been locked, or its rules changed, while a refresh was sent
            # New tokens are in the store by now: if the record fails, no login is lost.
            self._record({"event": "token", **event, "expires_at": tokens.expires_at}, "token")
        except (Refusal, DPoPError) as error:
            self._note_refusal(event, error)
            raise
        self._used = time.monotonic()
        self._counts["tokens"] += 1
        told = {name: getattr(tokens, name) for name in ("access_token", "token_type", "expires_at", "scope")}
        told |= {"key": account.key.rules.name, "jkt": account.key.jkt if tokens.is_bound else None}
        return {name: value for name, value in told.items() if value is not None}

    def _sign_refresh(self, account: str, held: HeldKey, text: str) -> bytes:
        """Sign the proof of a refresh. It obeys the rules of the key, and does not count as its use."""
        event = {"key": held.rules.name, "account": account, "pid": os.getpid(), "uid": self._own, "exe": "dpop agent"}
        try:
            return self._signed(held, text, event)
        except (Refusal, DPoPKeyError) as error:
            self._note_refusal(event, error)
            raise

    def _token_failed(self, error: TokenError, peer: Peer) -> Refusal:
        message = redact(str(error))
        if isinstance(error, TokenStoreError) and peer.uid not in {self._own, 0}:
            message = "the agent's token store fails; its own user sees why with: dpop agent status"
        return Refusal("token_failed", message, reason=error.code, retry_after=getattr(error, "retry_after", None))

    def _login(self, members: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        name, held = members["account"], self._held(members["key"], peer)
        if not members.get("refresh_token") and "grant" not in members:
            raise UsageError("a login needs a refresh token, or the agent could not keep it")
        if members.get("client_auth", "none") not in _CLIENT_AUTH:
            raise UsageError(f"client_auth must be {', '.join(_CLIENT_AUTH)} for a login in the agent")
        if held.rules.client_id is not None:
            raise UsageError(f"the key {held.rules.name} authenticates a client, and tokens are bound to another key")
        for url in ("token_endpoint", "revocation_endpoint"):
            origin = Origin.of_url(members[url]) if url in members else None
            if origin is not None and origin not in held.rules.origins:
                raise refused(
                    "origin",
                    f"the rules of the key {held.rules.name} do not name {origin}, which would renew the tokens; add"
                    " it to its origins",
                )
        login = {**{each: members[each] for each in _CLIENT if each in members}, "jkt": held.jkt}
        login |= self._client_key(members, peer)
        tokens = TokenSet(
            **{each: members[each] for each in _TOKENS if each in members},
            resource=tuple(members.get("resource", ())),
            jkt=held.jkt,
            key_reference=f"agent:{held.rules.name}",
        )
        # On record first: a client that is told of a failure keeps the tokens itself, and two must not have them.
        self._record({"event": "login", "account": name, "key": held.rules.name, "jkt": held.jkt}, "response")
        self.accounts.log_in(name, login, tokens, held)
        account = self.accounts.find(name)
        return {} if account is None else self.accounts.facts(account)

    def _client_key(self, members: Mapping[str, Any], peer: Peer) -> dict[str, str]:
        """The members of a login that name the key of its client, if the client authenticates by a key."""
        if members.get("client_auth") != "private_key_jwt":
            if "client_key" in members:
                raise UsageError("client_key belongs to client_auth private_key_jwt")
            return {}
        if "client_key" not in members:
            raise UsageError("private_key_jwt needs client_key, the name of the client's key in the agent")
        held = self._held(members["client_key"], peer)
        if held.rules.client_id != members["client_id"]:
            raise refused(
                "client",
                f"the rules of the key {held.rules.name} do not say that it authenticates this client; give it a"
                " client-id",
            )
        return {"client_jkt": held.jkt}

    def _logout(self, members: Mapping[str, Any], _peer: Peer) -> dict[str, Any]:
        revoked = self.accounts.log_out(members["account"], revoke=not members.get("forget", False))
        self._record({"event": "logout", "account": members["account"], "revoked": revoked}, "response")
        return {"account": members["account"], "revoked": revoked}

    # --- records

    def _record(self, event: Mapping[str, Any], what: str) -> None:
        if self._audit is None:
            return
        try:
            self._audit(event)
        except Exception:  # noqa: BLE001 - of a disk, or of the user's own function
            raise Refusal(
                "key_failed", f"the audit log cannot be written, so the {what} was not given out", reason="key"
            ) from None

    def _note_refusal(self, event: Mapping[str, Any], error: Refusal | DPoPError) -> None:
        reason = error.reason or error.error if isinstance(error, Refusal) else error.code
        self._counts["refused"] += 1
        with contextlib.suppress(Refusal):  # the client gets the refusal it has already
            self._record({"event": "refused", **event, "reason": reason}, "refusal")

    def _key(self, members: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        held = self._held(members["key"], peer)
        nonces = self._nonces.give(held.jkt, peer.uid, peer)
        return {**held.facts(), "nonces": [each._asdict() for each in nonces]}

    def _learn(self, members: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        self._learn_nonces(self._held(members["key"], peer), peer, members["learnt"])
        return {"learnt": True}

    def _learn_nonces(self, held: HeldKey, peer: Peer, learnt: Iterable[Mapping[str, Any]]) -> None:
        if not learnt:
            return
        reports = [NonceReport(**each) for each in learnt]
        named = {str(origin) for origin in held.rules.origins}
        self._nonces.learn(held.jkt, peer.uid, [each for each in reports if each.origin in named])

    def left(self, peer: Peer) -> None:
        """Note that a connection ended."""
        self._nonces.left(peer)

    def _list(self, _members: Mapping[str, Any], peer: Peer) -> dict[str, Any]:
        return {
            "keys": [held.facts() for held in list(self._keys.values()) if held.serves(peer)],
            "accounts": [
                self.accounts.facts(account) for account in self.accounts.all() if self._has_account(account, peer)
            ],
        }

    def _status(self, _members: Mapping[str, Any], _peer: Peer) -> dict[str, Any]:
        rules = self._rules
        return {
            "protocol": VERSION,
            "pid": os.getpid(),
            "uid": self._own,
            "started": int(self._started),
            "locked": any(not held.is_open for held in list(self._keys.values())),
            "lock_after": rules.lock_after,
            "logins": self.accounts.folder,
            "dumpable": is_dumpable(),
            "connections": self._connections(),
            "signed": self._counts["signed"],
            "tokens": self._counts["tokens"],
            "refused": self._counts["refused"],
            "rules": {
                "file": None if rules.path is None else str(rules.path),
                "in_force": rules.on_disk(),
                "problem": self._problem,
            },
            "keys": [held.facts() for held in list(self._keys.values())],
            "accounts": [
                {**self.accounts.facts(account), "problem": self.accounts.problem(account)}
                for account in self.accounts.all()
            ],
        }

    def _add(self, members: Mapping[str, Any], _peer: Peer) -> dict[str, Any]:
        password = members.get("password")
        rules = KeyRules(members["key"], members["uri"], members["origins"])
        with self._changing:
            if rules.name in self._keys or len(self._keys) >= _MAX_KEYS:
                raise UsageError(
                    f"there is a key {rules.name} already, or no room for another; its rules stay as they are"
                )
            held = HeldKey(rules, self._own, None if password is None else lambda _rules: password)
            if any(held.jkt == other.jkt for other in self._keys.values()):
                raise UsageError("the agent has this key already, by another name; its rules stay as they are")
            self._keys = {**self._keys, rules.name: held}
        return held.facts()

    def _lock(self, _members: Mapping[str, Any], _peer: Peer) -> dict[str, Any]:
        self.lock()
        return {"locked": True}

    def _unlock(self, members: Mapping[str, Any], _peer: Peer) -> dict[str, Any]:
        passwords: Mapping[str, str] = members.get("passwords", {})

        def ask(rules: KeyRules) -> str:
            if rules.name not in passwords:
                raise _PasswordNeededError(rules.name)
            return passwords[rules.name]

        try:
            self.unlock(ask)
        except _PasswordNeededError as error:
            return {"locked": True, "needs": error.name}
        return {"locked": False}

    def _reload(self, _members: Mapping[str, Any], _peer: Peer) -> dict[str, Any]:
        problem = self.reload()
        if problem is not None:
            raise UsageError(f"the rules are as they were: {problem}")
        return {"reloaded": True}

    def _stop(self, _members: Mapping[str, Any], _peer: Peer) -> dict[str, Any]:
        return {"stopping": True}

    _others: Final[Mapping[str, Callable[[Service, Mapping[str, Any], Peer], dict[str, Any]]]] = {
        "add": _add,
        "key": _key,
        "learn": _learn,
        "list": _list,
        "lock": _lock,
        "login": _login,
        "logout": _logout,
        "reload": _reload,
        "status": _status,
        "stop": _stop,
        "unlock": _unlock,
    }


def _locked() -> Refusal:
    return Refusal("locked", "its keys are forgotten; unlock it with: dpop agent unlock")


def _sign(held: HeldKey, text: str, origin: str) -> bytes:
    """Sign data that has been checked: within the rate, and after a person has agreed, if the rules need that.

    :param origin: shown to the person; there may be several.
    """
    held.spend(time.monotonic())  # first, so that nobody is asked more often than the rate allows
    if held.rules.confirm:
        _ask_a_person(held, origin)
    return held.sign(text.encode("ascii"))


def _ask_a_person(held: HeldKey, origin: str) -> None:
    """Have a person agree to one signature. The question holds what the rules say, and no text of the client."""
    if askpass_program() is None:
        raise refused(
            "not_confirmed", "a person has to agree, and DPOP_ASKPASS names no program that asks the agent's user"
        )
    if not confirmed(f"Allow the key {held.rules.name} to sign a request to {origin}?"):
        raise refused("not_confirmed", "the person who was asked did not agree, or not in time")


class _PasswordNeededError(Exception):
    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


def _opened(rules: AgentRules, before: Mapping[str, HeldKey], own: int, ask: Ask | None) -> dict[str, HeldKey]:
    """Open the keys of the rules; those that are open already are kept."""
    if not rules.keys:
        raise UsageError("the agent has no key; name one, and the origins it may sign for")
    keys: dict[str, HeldKey] = {}
    for each in rules.keys:
        if each.name in keys:
            raise UsageError(f"there are two keys of the name {each.name}")
        held = before[each.name].with_rules(each) if each.name in before else None
        keys[each.name] = held or HeldKey(each, own, ask)
    clients = {held.jkt for held in keys.values() if held.rules.client_id is not None}
    if any(held.rules.client_id is None and held.jkt in clients for held in keys.values()):
        raise UsageError(
            "a key that authenticates a client must not sign proofs, too; give the client a key of its own"
        )
    return keys
