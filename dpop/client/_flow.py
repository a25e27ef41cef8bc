# SPDX-License-Identifier: Apache-2.0
"""The protocol decisions for one HTTP request on one hop. This module does no I/O and signs nothing.

An integration drives it::

    attempt = flow.attempt(scheme, authority, target, token)      # once per request on the wire
    headers = attempt.headers(key.sign(attempt.signing_input))
    step = flow.received(status, header_fields)                   # for every response on the wire
    if step is Step.PEEK:
        step = flow.judged(first_bytes_of_the_body)

and does what the step says. Every decision to send something again is made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Literal

from dpop._late_logging import late_logger
from dpop.client._challenge import challenges, nonce_field
from dpop.client._clock import NOTABLE_SECONDS, skew
from dpop.client._events import ClientEvent, emit
from dpop.client._nonces import Lease, NonceKey, Role, Turn
from dpop.client._refusals import Verdict
from dpop.client._request import BearerToken, OutgoingRequest, form_of
from dpop.encoding import code_jti, sendable_token
from dpop.errors import EncodingError, UnrewindableBodyError
from dpop.htu import check_method, wire_htu
from dpop.proof import compact, signing_input

if TYPE_CHECKING:
    from dpop.client._policy import Decision, Policy
    from dpop.client._prover import Prover
    from dpop.client._request import AccessToken
    from dpop.origin import Origin

__all__ = ["PEEK_BYTES", "Attempt", "ProofFlow", "Step"]

_log = late_logger("dpop.client")

PEEK_BYTES = 10_240
"""How many bytes of a refusal's body are read: enough for any sensible error response."""


_PROOF = frozenset({"dpop"})
_PROOF_AND_TOKEN = frozenset({"dpop", "authorization"})
_FIELDS = frozenset({"dpop-nonce", "www-authenticate", "date", "age"})

# The errors by which servers ask for another nonce. The second one is in no standard.
_NONCE_ERRORS = frozenset({"use_dpop_nonce", "invalid_dpop_nonce"})
# RFC 9449's error for every other fault of a proof. Some servers use it to ask for a nonce, too.
_PROOF_ERROR = "invalid_dpop_proof"
# The statuses of refusals with these errors. Some servers and gateways use 403 for every refusal.
_REFUSALS = frozenset({400, 401, 403})

# A request with one of these methods is sent again with another token even if the 401 does not say "invalid_token".
# The server may then have acted on the request already, so POST and PATCH are missing (RFC 9110 §9.2.2).
_REPEATABLE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

_MAX_WAIT_SECONDS = 2.0
"""How long a proof may wait for a connection: some servers refuse a proof that is ten seconds old."""


class Step(Enum):
    """The next action of the integration after a response."""

    DONE = "hand the response to the caller"
    PEEK = "show the first bytes of the body to judged(), and leave the body readable"
    RETRY = "drop the response and send the request again, with a new proof"
    REFRESH = "drop the response, tell the token source its token was refused, and send the request again"
    REPORT = "tell the token source its token was refused, and hand the response to the caller"


class Attempt:
    """An unsigned proof for one request on the wire."""

    __slots__ = ("_token", "signing_input")

    def __init__(self, data: bytes | None, token: str | None) -> None:
        self.signing_input: bytes | None = data
        """The proof to sign; ``None`` if the request carries an unbound token and no proof."""
        self._token = token

    def headers(self, signature: bytes) -> list[tuple[str, str]]:
        """The headers to set; each replaces the request's headers of that name (RFC 9449 §4.1, §7.1)."""
        if self.signing_input is None:
            return [("Authorization", "Bearer " + (self._token or ""))]
        headers = [("DPoP", compact(self.signing_input, signature))]
        if self._token is not None:
            # Joined with +: a subclass of str may show itself otherwise in an f-string, as a masked secret does.
            headers.append(("Authorization", "DPoP " + self._token))
        return headers


class ProofFlow:
    """The flow of one request to one server; :meth:`open` makes it if the policy signs for that server."""

    def __init__(self, policy: Policy, request: OutgoingRequest, decision: Decision) -> None:
        self.policy = policy
        self.prover: Prover = decision.prover
        self.origin: Origin = decision.origin
        self.role: Role = decision.role
        self.access_token: AccessToken | None = decision.access_token
        self._method = check_method(request.method)
        self._repeatable = request.repeatable
        self._priming = request.priming is not None
        form = form_of(request) if self.role is Role.AS else {}
        self._holds_assertion = "client_assertion" in form
        self._fixed_jti = _jti_of_exchange(form) if policy.profile.code_jti else None
        shared = policy.profile.share_nonces
        self._nonce_key = NonceKey(self.prover.thumbprint, self.origin, None if shared else self.role)
        self._turn: Turn | None = None
        self._lease: Lease | None = None
        self._sent_lease: Lease | None = None
        self._retry_lease: Lease | None = None
        self._retry_nonce: str | None = None
        self._attempts = 0
        self._sent_nonces: tuple[str, ...] = ()
        self._nonce_retries = 0
        self._proof_retried = False
        self._refreshed = False
        self._dead: _DeadToken | None = None
        self.asked_at: float = 0.0
        """When the token of the next attempt was asked for, in monotonic seconds; ``ask_token`` sets it."""
        self.tells_source: bool = True
        """Whether ``Step.REFRESH`` must tell the token source; ``False`` if another request has told it already."""
        self._sent_token: str | None = None
        self._sent_at = 0.0
        self._offset = 0.0
        self._peeked: tuple[str | None, float | None, int] = (None, None, 0)

    @classmethod
    def open(cls, policy: Policy, request: OutgoingRequest) -> ProofFlow | None:
        """Return the flow of this request, or ``None`` if the request must pass through unsigned."""
        decision = policy.decide(request)
        return None if decision is None else cls(policy, request, decision)

    @property
    def headers_replaced(self) -> frozenset[str]:
        """Names, in lower case, of the caller's headers that the flow replaces."""
        return _PROOF if self.access_token is None else _PROOF_AND_TOKEN

    # -- before sending ------------------------------------------------------------------------

    def ready(self, *, give_up: bool = False) -> Turn | None:
        """Take a nonce for the next attempt, or return the turn to wait for first; then call again.

        :param give_up: go on without the turn; the wait has been long enough.
        """
        if self._lease is not None or self._retry_lease is not None:
            return None
        leased = self.prover.nonces.lease(
            self._nonce_key,
            wait=not give_up,
            turn=self._turn,
            required=self.policy.nonces_required and not give_up,
            serial=self.policy.serial,
            may_try=not self._nonce_retries and self.may_repeat,
        )
        if isinstance(leased, Turn):
            self._turn = leased
            return leased
        self._turn = None
        if self._retry_nonce is not None and leased.nonce in self._sent_nonces:
            leased.nonce = self._retry_nonce  # a refused nonce is never sent again
        self._retry_nonce = None
        self._lease = leased
        return None

    def attempt(self, scheme: str, authority: str, target: str, token: str | None) -> Attempt:
        """Make a new unsigned proof for the request that is about to be sent (RFC 9449 §4.2, §7.1, §8).

        :param authority: the Host header or ``:authority``.
        :param target: the request target as sent.
        :param token: the access token to send, asked of the source for this attempt.
        :raises InvalidTargetError: the target has no unambiguous ``htu``.
        :raises CredentialError: the token cannot stand in a header.
        :raises UnrewindableBodyError: a transport retry would send a body that is gone.
        """
        if self._attempts and not self._repeatable:
            raise UnrewindableBodyError(
                f"the request to {self.origin} would be sent again, but its body can be read only once; send it"
                " with bytes or a file, or without automatic retries"
            )
        if isinstance(token, BearerToken) and self.role is Role.RS:
            self.failed()  # an unbound token needs no nonce and no turn
            self._attempts += 1
            sendable_token(token)
            self._sent_token = token
            self._sent_at = self.prover.clock()
            return Attempt(None, token)
        htu = wire_htu(scheme, authority, target)
        ath = None if token is None or self.role is Role.AS else self.prover.ath(token)
        lease = self._next_lease()
        now = self.prover.clock()
        self._offset = self.policy.clocks.offset(self.origin) if self.policy.clocks else 0.0
        life = self.policy.profile.proof_life
        data = signing_input(
            self.prover.key,
            self._method,
            htu,
            jti=self._fixed_jti or self.prover.jti(),
            iat=int(now + self._offset),
            nonce=lease.nonce,
            ath=ath,
            claims=None if life is None else {"exp": int(now + self._offset) + life},
        )
        self._attempts += 1
        self._sent_lease = lease
        self._sent_token = token
        self._sent_at = now
        if lease.nonce is not None:
            self._sent_nonces += (lease.nonce,)
        return Attempt(data, token)

    def outdated(self) -> bool:
        """Whether the proof became too old before it was written; then sign a new attempt.

        Ask only before it is written: the next attempt has its nonce, and its body has not been read.
        """
        if self.prover.clock() - self._sent_at <= _MAX_WAIT_SECONDS:
            return False
        self._attempts -= 1
        self._retry_lease, self._lease = self._lease, None
        return True

    def _next_lease(self) -> Lease:
        """The nonce of this attempt: on a retry the nonce of the challenge, otherwise one from the cache."""
        nonces = self.prover.nonces
        if self._lease is not None and self._lease is self._sent_lease:
            # The previous attempt ended without a response. This one uses its turn, with another nonce.
            self._turn, self._lease.turn = self._lease.turn, None
            nonces.release(self._lease)
            self._lease = None
        if self._retry_lease is not None:
            self._lease, self._retry_lease = self._retry_lease, None
        elif self._lease is None:
            self.ready(give_up=True)
        assert self._lease is not None  # noqa: S101 - ready() with give_up always leases
        return self._lease

    # -- after a response ----------------------------------------------------------------------

    def received(self, status: int, fields: Iterable[tuple[str, str]]) -> Step:
        """Learn from the head of a response and say what to do next.

        :param fields: all header fields, repeated ones as often as they came.
        """
        values: dict[str, list[str]] = {}
        for name, value in fields:
            lower = name.lower()
            if lower in _FIELDS:
                values.setdefault(lower, []).append(value)
        nonce = None
        if "dpop-nonce" in values:
            nonce, problem = nonce_field(values["dpop-nonce"])
            if problem is not None:
                _log.warning("the DPoP-Nonce of %s is ignored: %s", self.origin, problem)
            if any(age.strip() != "0" for age in values.get("age", ())):
                nonce = None  # a cached nonce is not the newest (RFC 9449 §8.2); some servers send Age: 0
            if status == 407:
                nonce = None  # the proxy's own response, and a proxy is not the server (RFC 9449 §7.1, §9)
        if status not in _REFUSALS:
            return self._decide(None, nonce, None, status)
        # Measure the time in the proof, not our clock: a correction that was learnt earlier may be wrong by now.
        begun, ended = self._sent_at + self._offset, self.prover.clock() + self._offset
        ahead = skew(values["date"][0] if "date" in values else None, begun, ended)
        said = self._challenges(values.get("www-authenticate", ()), nonce)
        sent, other = ("bearer", "dpop") if isinstance(self._sent_token, BearerToken) else ("dpop", "bearer")
        error = _error_of(said or {}, sent)
        self._dead = None
        if status == 401 and self._may_renew and said is not None:
            self._dead = _dead_token(said, sent, other)
        in_body = self.role is Role.AS or self.policy.profile.api_json_errors
        if error is None and in_body and self._worth_peeking(nonce, ahead):
            self._peeked = (nonce, ahead, status)
            return Step.PEEK
        return self._decide(error, nonce, ahead, status)

    def judged(self, body: bytes) -> Step:
        """Decide after :attr:`Step.PEEK`, by the body of the refusal (RFC 9449 §5, §8; RFC 6749 §5.2).

        :param body: its first bytes, decoded from any content coding, at most :data:`PEEK_BYTES`.
        """
        nonce, ahead, status = self._peeked
        from dpop.client._forgiving import error_of_refusal  # noqa: PLC0415 - only after a refusal

        error = error_of_refusal(body)
        return self._decide(error, nonce, ahead, status)

    def failed(self) -> None:
        """Release the lease or turn that others may wait for; call it whenever the request ends, also on errors."""
        for lease in (self._lease, self._retry_lease):
            if lease is not None:
                self.prover.nonces.release(lease)
        if self._turn is not None:
            self.prover.nonces.leave(self._nonce_key, self._turn)
        self._lease = self._retry_lease = self._turn = None

    @property
    def may_repeat(self) -> bool:
        """Whether the request can be sent again: its body can be repeated, and its assertion renewed if it has one."""
        if self._priming or not self._repeatable:
            return False
        return not self._holds_assertion or self.policy.rebuild is not None

    @property
    def may_be_resent(self) -> bool:
        """Whether a layer below may send the same bytes again: the body is not used up and holds no assertion."""
        return self._repeatable and not self._holds_assertion

    @property
    def needs_rebuild(self) -> bool:
        """Whether the body must go through ``rebuild`` before it is sent again: it holds a used assertion."""
        return self._holds_assertion and self.policy.rebuild is not None

    @property
    def sent_token(self) -> str | None:
        """The token of the last attempt."""
        return self._sent_token

    def _challenges(self, fields: Sequence[str], nonce: str | None) -> dict[str, dict[str, str | None]] | None:
        """The challenges by their scheme; ``None`` if they cannot be read."""
        try:
            said = challenges(fields)
        except EncodingError as error:
            if nonce is not None:
                _log.warning(
                    "%s sent a DPoP-Nonce with a WWW-Authenticate that breaks RFC 9110, so it is not understood: %s",
                    self.origin,
                    error,
                )
            return None
        if any(told.get("error") == "insufficient_user_authentication" for told in said.values()):
            from dpop.client._demands import demand_of  # noqa: PLC0415 - only after a refusal

            _log.warning("%s: %s", self.origin, demand_of(fields))  # no refresh helps: the user has to log in again
        return said

    @property
    def _may_renew(self) -> bool:
        """Whether a refused token can be renewed: it is from a source, and the policy wants that."""
        return self._sent_token is not None and self.policy.renew_refused and hasattr(self.access_token, "refused")

    def _worth_peeking(self, nonce: str | None, ahead: float | None) -> bool:
        return self._may_use(nonce) or _notable(ahead)

    def _may_use(self, nonce: str | None) -> bool:
        """Whether the request may be sent again with this nonce: the nonce is new to it, and retries are left."""
        # Compared with the nonces of this request, never with the cache: other threads fill that meanwhile.
        new = nonce is not None and nonce not in self._sent_nonces
        return new and self._nonce_retries < self.policy.profile.nonce_retries and self.may_repeat

    def _decide(self, error: str | None, nonce: str | None, ahead: float | None, status: int) -> Step:
        lease, self._lease = self._lease, None
        if lease is not None and nonce is not None and nonce not in self._sent_nonces:
            self._tell("nonce")
        retry = wants_nonce = error in _NONCE_ERRORS
        if error == _PROOF_ERROR:
            retry = not self._proof_retried
            self._proof_retried = True
        retry = retry and self._may_use(nonce)
        if error == _PROOF_ERROR and (_notable(ahead) or not retry):
            self._explain_refusal(ahead)
        if lease is not None and nonce is not None and retry:
            self._nonce_retries += 1
            self._retry_lease = self.prover.nonces.challenged(lease, nonce, wait=True)
            self._retry_nonce = nonce if self._retry_lease is None else None
            self._tell("retried", error)
            return Step.RETRY
        if (wants_nonce or error == _PROOF_ERROR) and not self._priming:
            self._tell("refused", error)
        if lease is not None:
            self.prover.nonces.answered(lease, learnt=nonce, accepted=200 <= status < 300, refused=wants_nonce)
        if wants_nonce and not self._priming:
            self._explain_nonce(nonce)
        elif self._dead is not None and not self._refreshed:
            self._refreshed = True
            step = self._renewed(self._dead)
            self._tell("token_refused", "sent_again" if step is Step.REFRESH else "returned")
            return step
        return Step.DONE

    def _renewed(self, dead: _DeadToken) -> Step:
        """Decide what to do after a refused token: tell its source once, and repeat the request if allowed."""
        source, token = self.access_token, self._sent_token or ""
        refused = self.policy._refused_tokens  # noqa: SLF001 - the same package
        verdict = refused.judge(source, self.origin, token, self.asked_at)
        again = self.may_repeat and (dead is _DeadToken.NAMED or self._method in _REPEATABLE_METHODS)
        # A source of this package counts each token once. If every request tells it, it knows before any asks again.
        counts_once = hasattr(source, "_refused_by")
        self.tells_source = verdict is Verdict.NEW or (verdict is Verdict.UNDER_WAY and counts_once)
        if verdict is Verdict.NEW:
            if again:
                then = "the request is sent again with another"
            elif self.may_repeat:
                then = f"the response is returned: a {self._method} is repeated only after a clear invalid_token"
            else:
                then = "the response is returned, because the body cannot be sent again"
            _log.warning("%s refused the access token: %s; its source is told, and %s", self.origin, dead.value, then)
            return Step.REFRESH if again else Step.REPORT
        if verdict in {Verdict.UNDER_WAY, Verdict.RENEWED}:
            return Step.REFRESH if again else Step.DONE
        if refused.worth_saying(source, self.origin):
            if verdict is Verdict.AGAIN:
                why = "the source still gives the token that was refused"
            else:
                why = "five tokens within a minute, so it is not the token: look at its audience, scope and binding"
            _log.warning("%s goes on refusing access tokens; its responses are returned: %s", self.origin, why)
        return Step.DONE

    def _told_source(self) -> None:
        """Record that the source knows, or has raised an error, for the requests that are refused meanwhile."""
        if self.tells_source and self._sent_token is not None:
            self.policy._refused_tokens.told(self.access_token, self.origin, self._sent_token)  # noqa: SLF001

    def _tell(
        self,
        kind: Literal["nonce", "retried", "refused", "token_refused", "clock"],
        reason: str | None = None,
        seconds: float | None = None,
    ) -> None:
        if self.prover.events is not None:
            emit(self.prover.events, ClientEvent(kind, str(self.origin), self.role, reason, seconds))

    def _explain_nonce(self, nonce: str | None) -> None:
        if nonce is None:
            why = "it sent no usable DPoP-Nonce"
        elif nonce in self._sent_nonces:
            why = "it gave a nonce that this request has already carried"
        elif self._nonce_retries:
            why = f"it refused the nonces it had just given ({self._nonce_retries} of them)"
        elif self._holds_assertion:
            why = "the body holds a client_assertion, which must not be sent twice; give the adapter rebuild="
        else:
            why = "the body can be read only once; the nonce is stored, so send it again, or call prime() first"
        _log.warning("%s asked for a nonce, and its response is returned as it is: %s", self.origin, why)

    def _explain_refusal(self, ahead: float | None) -> None:
        if ahead is None or not _notable(ahead):
            _log.warning("%s refused the proof: invalid_dpop_proof", self.origin)
            return
        difference = ahead + self._offset
        side = "behind" if difference < 0 else "ahead of"
        if self.policy.clocks is None:
            advice = "set this machine's clock, or use learn_clock=True"
        else:
            learnt = self.policy.clocks.learn(self.origin, difference)
            self._tell("clock", seconds=learnt)
            advice = f"the next proof is corrected by {learnt:+.0f} s"
        _log.warning(
            "%s refused the proof; its clock is %.0f s %s this machine's: %s",
            self.origin,
            abs(difference),
            side,
            advice,
        )


class _DeadToken(Enum):
    """A server's statement that it does not accept the access token."""

    NAMED = "invalid_token"
    IN_ANOTHER_SCHEME = "invalid_token in a challenge of another scheme"
    UNNAMED = "401 without an error"


def _dead_token(said: Mapping[str, Mapping[str, str | None]], sent: str, other: str) -> _DeadToken | None:
    """Return how a 401 says that the access token is no longer accepted; ``None`` if it does not say so.

    :param said: the parameters of the response's challenges, by scheme.
    :param sent: the scheme the request used: dpop, or bearer.
    :param other: the other one of these two.
    """
    if "error" in said.get(sent, {}):
        return _DeadToken.NAMED if _error_of(said, sent) == "invalid_token" else None
    if "error" in said.get(other, {}):
        return _DeadToken.IN_ANOTHER_SCHEME if _error_of(said, other) == "invalid_token" else None
    # A challenge of another scheme may come from a login page or a firewall, which has not looked at the token.
    return None if said.keys() - {sent, other} else _DeadToken.UNNAMED


def _error_of(said: Mapping[str, Mapping[str, str | None]], scheme: str) -> str | None:
    """The error in the challenge of a scheme, in the case in which the standards write it."""
    error = said.get(scheme, {}).get("error")
    return None if error is None else error.strip().lower()


def _notable(ahead: float | None) -> bool:
    return ahead is not None and abs(ahead) > NOTABLE_SECONDS


def _jti_of_exchange(form: dict[str, str]) -> str | None:
    """The identifier that Google requires in a code exchange, also when it is retried with a nonce."""
    if form.get("grant_type") != "authorization_code" or not form.get("code"):
        return None
    return code_jti(form["code"])
