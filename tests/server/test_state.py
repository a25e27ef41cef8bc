# SPDX-License-Identifier: Apache-2.0
"""The verifier's memory: replays and nonces, with caches that answer at once and caches that are awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dpop.errors import InvalidProof, ReplayCacheError, UsageError
from dpop.keys import Key, generate_key
from dpop.proof import create_proof
from dpop.server import MemoryReplayCache, NonceIssuer, NonceVerdict, ProofVerifier, VerifiedProof

NOW = 1_700_000_040  # the first second of a nonce slot
URL = "https://api.example/items"
TOKEN_URL = "https://as.example/token"
TOKEN = "an-access.token~1"
KEY = generate_key()
OTHER_KEY = generate_key()


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class AwaitedCache:
    """A replay cache on the far side of an await."""

    def __init__(self, clock: Clock) -> None:
        self._cache = MemoryReplayCache(clock=clock)

    async def add(self, key: str, expires_at: float) -> bool:
        """The answer, later."""
        await asyncio.sleep(0)
        return self._cache.add(key, expires_at)


class BrokenCache:
    """A replay cache that cannot be reached."""

    def add(self, key: str, expires_at: float) -> bool:
        """No answer."""
        raise ReplayCacheError("cannot be reached")


class ForgetfulCache:
    """A cache written in haste: its answer is no bool."""

    def add(self, key: str, expires_at: float) -> bool:
        """An answer that is true, but not True."""
        return 1  # type: ignore[return-value]


class TimelessNonces:
    """Nonces that do not tell when they were issued."""

    used = None

    def issue(self, jkt: str | None = None) -> str:
        """The only one."""
        return "good"

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """Good for a long time."""
        return NonceVerdict(None, NOW + 10_000) if nonce == "good" else None

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        """No other."""
        return None


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def verifier(clock: Clock) -> ProofVerifier:
    """A verifier with the default policy and a fresh cache."""
    return ProofVerifier(replay=MemoryReplayCache(clock=clock), clock=clock)


def proof(key: Key = KEY, url: str = URL, *, jti: str = "1", iat: int = NOW, **more: Any) -> str:
    """A client's proof for the resource."""
    return create_proof(key, "GET", url, access_token=TOKEN, jti=jti, iat=iat, **more)


def token_proof(key: Key = KEY, *, jti: str = "1", iat: int = NOW, **more: Any) -> str:
    """A client's proof for the token endpoint."""
    return create_proof(key, "POST", TOKEN_URL, jti=jti, iat=iat, **more)


def ask(verifier: ProofVerifier, text: str, **changes: Any) -> VerifiedProof:
    """Verify a proof for the resource, with the honest token unless changed."""
    asked: dict[str, Any] = {"method": "GET", "url": URL, "access_token": TOKEN, "bound_jkt": KEY.thumbprint}
    asked |= changes
    return verifier.verify_resource([("DPoP", text)], asked.pop("method"), asked.pop("url"), **asked)


def ask_token(verifier: ProofVerifier, text: str, **changes: Any) -> VerifiedProof:
    """Verify a proof for the token endpoint."""
    return verifier.verify_token_request([("DPoP", text)], "POST", TOKEN_URL, **changes)


def refusal(verify: Callable[[], object]) -> InvalidProof:
    """The refusal that a call ends with."""
    with pytest.raises(InvalidProof) as caught:
        verify()
    return caught.value


# --- replay


def test_a_hundred_threads_with_one_proof(verifier: ProofVerifier) -> None:
    """Exactly one of a hundred concurrent verifications accepts."""
    text, start = proof(), threading.Barrier(100)
    reasons: list[str] = []

    def accepted(_: int) -> bool:
        start.wait()
        try:
            ask(verifier, text)
        except InvalidProof as refused:
            reasons.append(refused.reason)
            return False
        return True

    with ThreadPoolExecutor(100) as pool:
        assert sum(pool.map(accepted, range(100))) == 1
    assert reasons == ["replayed"] * 99


def test_a_hundred_tasks_with_one_proof(clock: Clock) -> None:
    """The same with a cache that is awaited, where tasks interleave."""
    verifier = ProofVerifier(replay=AwaitedCache(clock), clock=clock)
    reasons: list[str] = []

    async def accepted() -> bool:
        try:
            await verifier.averify_resource([("DPoP", text)], "GET", URL, access_token=TOKEN, bound_jkt=KEY.thumbprint)
        except InvalidProof as refused:
            reasons.append(refused.reason)
            return False
        return True

    async def run() -> list[bool]:
        return await asyncio.gather(*(accepted() for _ in range(100)))

    text = proof()
    assert sum(asyncio.run(run())) == 1
    assert reasons == ["replayed"] * 99


@pytest.mark.parametrize("iat", [NOW - 60, NOW - 1, NOW, NOW + 30])
def test_there_is_no_moment_at_which_a_proof_passes_twice(verifier: ProofVerifier, clock: Clock, iat: int) -> None:
    """From its first use to long after its life, every quarter of a second."""
    text = proof(iat=iat)
    ask(verifier, text)
    for quarter in range(4 * 200):
        clock.now = NOW + quarter / 4
        assert refusal(lambda: ask(verifier, text)).reason in {"replayed", "iat_too_old"}


def test_the_same_jti_elsewhere_is_another_proof(verifier: ProofVerifier) -> None:
    """A jti counts in the context of a URL and a key (RFC 9449 §11.1)."""
    assert ask(verifier, proof())
    assert ask(verifier, proof(url=URL + "/2"), url=URL + "/2")
    assert ask(verifier, proof(OTHER_KEY), bound_jkt=OTHER_KEY.thumbprint)


class Notes:
    """A cache that writes down what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []

    def add(self, key: str, expires_at: float) -> bool:
        """Everything is new."""
        self.asked.append((key, expires_at))
        return True


def test_a_cache_is_told_to_keep_a_proof_as_long_as_it_could_pass(clock: Clock) -> None:
    """To iat + max_age + skew, or with a nonce that replaces iat to its end and the skew."""
    nonces, notes = NonceIssuer(clock=clock), Notes()
    ask(ProofVerifier(replay=notes, clock=clock), proof(iat=NOW - 10))
    ask(ProofVerifier(replay=notes, nonces=nonces, clock=clock), proof(iat=NOW - 10, nonce=nonces.issue()))
    (key, until), (again, until_nonce) = notes.asked
    assert (until, until_nonce) == (NOW - 10 + 60 + 30, NOW + 180 + 30)
    assert key == again
    assert key.startswith(KEY.thumbprint + ".")


def test_a_verifier_without_a_memory_does_not_start() -> None:
    """Neither a cache nor nonces that are used up: a proof could be used again."""
    for nonces in (None, NonceIssuer()):
        with pytest.raises(UsageError, match="replay=MemoryReplayCache"):
            ProofVerifier(replay=None, nonces=nonces)


def test_nonces_for_one_use_are_memory_enough(clock: Clock) -> None:
    """A proof has one nonce, so a nonce that is used up uses the proof up."""
    nonces = NonceIssuer(single_use=MemoryReplayCache(clock=clock), clock=clock)
    verifier = ProofVerifier(replay=None, nonces=nonces, clock=clock)
    text = proof(nonce=nonces.issue())
    assert ask(verifier, text)
    assert refusal(lambda: ask(verifier, text)).reason == "nonce_used"


def test_a_cache_that_cannot_answer_refuses(clock: Clock) -> None:
    """A full or unreachable cache is never taken for "new"."""
    with pytest.raises(ReplayCacheError):
        ask(ProofVerifier(replay=BrokenCache(), clock=clock), proof())
    with pytest.raises(UsageError, match="True or False"):
        ask(ProofVerifier(replay=ForgetfulCache(), clock=clock), proof())


def test_an_awaited_cache_needs_the_async_methods(clock: Clock) -> None:
    """A coroutine that nobody awaits would read as "new"."""
    verifier = ProofVerifier(replay=AwaitedCache(clock), clock=clock)
    with pytest.raises(UsageError, match="averify"):
        ask(verifier, proof())
    with pytest.raises(UsageError, match="averify"):
        ask_token(verifier, token_proof())


def test_the_async_methods_take_a_plain_cache(verifier: ProofVerifier) -> None:
    """A cache in memory answers at once, in both kinds of method."""

    async def run() -> VerifiedProof:
        return await verifier.averify_token_request({"DPoP": text}, "POST", TOKEN_URL, bound_jkt=KEY.thumbprint)

    text = token_proof()
    assert asyncio.run(run()).jkt == KEY.thumbprint
    assert refusal(lambda: ask_token(verifier, text)).reason == "replayed"
    assert refusal(lambda: asyncio.run(run())).reason == "replayed"


# --- in two steps, at an authorization server


def test_nothing_is_recorded_before_the_client_is_known(clock: Clock) -> None:
    """Strangers cannot fill the cache of an authorization server: what is not accepted is not remembered."""
    notes = Notes()
    verifier = ProofVerifier(replay=notes, clock=clock)
    checked = verifier.check_token_request([("DPoP", token_proof())], "POST", TOKEN_URL)
    assert (checked.jkt, notes.asked) == (KEY.thumbprint, [])
    assert checked.accept(bound_jkt=None).jkt == KEY.thumbprint
    assert len(notes.asked) == 1


def test_a_proof_checked_twice_is_accepted_once(verifier: ProofVerifier) -> None:
    """Both requests passed the checks; the second to be accepted is a replay, in either kind of method."""
    headers = [("DPoP", token_proof())]
    one, two, three = (verifier.check_token_request(headers, "POST", TOKEN_URL) for _ in range(3))
    assert asyncio.run(one.aaccept(bound_jkt=KEY.thumbprint)).jkt == KEY.thumbprint
    assert refusal(lambda: two.accept(bound_jkt=None)).reason == "replayed"
    assert refusal(lambda: asyncio.run(three.aaccept(bound_jkt=None))).reason == "replayed"


def test_the_grant_of_another_key_costs_the_proof_nothing(verifier: ProofVerifier) -> None:
    """The binding is checked before the proof is recorded, in both kinds of method."""
    headers = [("DPoP", token_proof())]
    checked = verifier.check_token_request(headers, "POST", TOKEN_URL)
    for attempt in (
        lambda: checked.accept(bound_jkt=OTHER_KEY.thumbprint),
        lambda: asyncio.run(checked.aaccept(bound_jkt=OTHER_KEY.thumbprint)),
    ):
        refused = refusal(attempt)
        assert (refused.error, refused.reason) == ("invalid_grant", "key_mismatch")
    assert checked.accept(bound_jkt=KEY.thumbprint)


def test_the_first_step_refuses_all_else(clock: Clock) -> None:
    """A missing proof, a bad one, a missing nonce: before any client is authenticated."""
    nonces = NonceIssuer(single_use=AwaitedCache(clock), clock=clock)
    verifier = ProofVerifier(replay=AwaitedCache(clock), nonces=nonces, clock=clock)
    assert refusal(lambda: verifier.check_token_request([], "POST", TOKEN_URL)).reason == "proof_missing"
    asked = refusal(lambda: verifier.check_token_request([("DPoP", token_proof())], "POST", TOKEN_URL))
    assert (asked.error, asked.reason) == ("use_dpop_nonce", "nonce_missing")
    checked = verifier.check_token_request([("DPoP", token_proof(nonce=asked.nonce))], "POST", TOKEN_URL)
    with pytest.raises(UsageError, match="async"):
        checked.accept(bound_jkt=None)
    assert asyncio.run(checked.aaccept(bound_jkt=None)).nonce == asked.nonce


def test_a_checked_proof_can_be_logged(verifier: ProofVerifier) -> None:
    """Its repr says that it is not accepted yet, and nothing that helps to rebuild it."""
    checked = verifier.check_token_request([("DPoP", token_proof(jti="a-secret-jti"))], "POST", TOKEN_URL)
    assert repr(checked) == f"<CheckedProof ES256 key {KEY.thumbprint}, not accepted yet>"


# --- nonces


def test_a_nonce_is_asked_for_used_and_renewed(clock: Clock) -> None:
    """Challenge, success, the next nonce on the answer in the next slot, and a challenge when it is stale."""
    nonces = NonceIssuer(role="AS", clock=clock)
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), nonces=nonces, clock=clock)
    asked = refusal(lambda: ask_token(verifier, token_proof()))
    assert (asked.error, asked.reason) == ("use_dpop_nonce", "nonce_missing")
    first = asked.nonce
    seen = ask_token(verifier, token_proof(nonce=first))
    assert (seen.nonce, seen.next_nonce) == (first, None)
    clock.now += 60
    second = ask_token(verifier, token_proof(nonce=first, jti="2")).next_nonce
    assert second not in {None, first}
    clock.now += 120
    stale = refusal(lambda: ask_token(verifier, token_proof(nonce=first, jti="3")))
    assert stale.reason == "nonce_unknown"
    assert stale.nonce
    assert ask_token(verifier, token_proof(nonce=second, jti="3"))


def test_a_nonce_never_shows_in_a_refusal(clock: Clock) -> None:
    """Neither the one that came nor the one to hand out is in its text."""
    verifier = ProofVerifier(replay=MemoryReplayCache(), nonces=NonceIssuer(clock=clock), clock=clock)
    refused = refusal(lambda: ask_token(verifier, token_proof(nonce="the-nonce-that-came")))
    assert refused.nonce
    assert refused.nonce not in str(refused) + repr(refused)
    assert "the-nonce-that-came" not in str(refused) + repr(refused)


def test_a_nonce_with_a_time_makes_iat_unimportant_but_not_replay(clock: Clock) -> None:
    """A client with a wrong clock gets in, once, for as long as its nonce lives (RFC 9449 §4.3 (11))."""
    nonces = NonceIssuer(clock=clock)
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), nonces=nonces, clock=clock)
    text = proof(iat=NOW - 86_400, nonce=nonces.issue())
    assert ask(verifier, text)
    for second in range(400):
        clock.now = NOW + second
        assert refusal(lambda: ask(verifier, text)).reason in {"replayed", "nonce_unknown"}


def test_a_nonce_of_many_minutes_does_not_make_proofs_live_as_long(clock: Clock) -> None:
    """A server may keep its nonces for a day; iat then decides."""
    nonces = NonceIssuer(slot=3600, window=24, clock=clock)
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), nonces=nonces, clock=clock)
    assert ask(verifier, proof(nonce=nonces.issue()))
    old = proof(nonce=nonces.issue(), jti="2", iat=NOW - 61)
    assert refusal(lambda: ask(verifier, old)).reason == "iat_too_old"


def test_a_nonce_bound_to_a_key_is_no_others(clock: Clock) -> None:
    """Who read it off the wire, or got it without a proof, is asked for another."""
    nonces = NonceIssuer(bind_key=True, clock=clock)
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), nonces=nonces, clock=clock)
    asked = refusal(lambda: ask_token(verifier, token_proof()))
    for foreign in (nonces.issue(), nonces.issue(OTHER_KEY.thumbprint)):
        assert refusal(lambda: ask_token(verifier, token_proof(nonce=foreign))).reason == "nonce_unknown"  # noqa: B023
    assert ask_token(verifier, token_proof(nonce=asked.nonce)).next_nonce is None
    clock.now += 60
    assert ask_token(verifier, token_proof(nonce=asked.nonce, jti="2")).next_nonce == nonces.issue(KEY.thumbprint)


def test_a_nonce_without_a_time_leaves_iat_to_be_checked(clock: Clock) -> None:
    """Otherwise such a nonce would make proofs immortal."""
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), nonces=TimelessNonces(), clock=clock)
    assert ask(verifier, proof(nonce="good"))
    assert refusal(lambda: ask(verifier, proof(nonce="good", jti="2", iat=NOW - 61))).reason == "iat_too_old"


def test_a_single_use_nonce_is_burnt_and_the_jti_is_not(clock: Clock) -> None:
    """The second use is challenged, and the same jti passes with the new nonce, as Google's clients need."""
    nonces = NonceIssuer(single_use=MemoryReplayCache(clock=clock), clock=clock)
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), nonces=nonces, clock=clock)
    nonce = nonces.issue()
    fresh = ask_token(verifier, token_proof(nonce=nonce, jti="first")).next_nonce
    refused = refusal(lambda: ask_token(verifier, token_proof(nonce=nonce, jti="of-the-code")))
    assert (refused.error, refused.reason) == ("use_dpop_nonce", "nonce_used")
    assert len({nonce, fresh, refused.nonce}) == 3
    assert ask_token(verifier, token_proof(nonce=refused.nonce, jti="of-the-code"))


def test_a_single_use_nonce_survives_a_refusal(clock: Clock) -> None:
    """A proof that fails for another reason does not cost its nonce."""
    nonces = NonceIssuer(single_use=MemoryReplayCache(clock=clock), clock=clock)
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), nonces=nonces, clock=clock)
    nonce = nonces.issue()
    assert refusal(lambda: ask(verifier, proof(nonce=nonce), access_token="other")).reason == "ath_mismatch"
    assert ask(verifier, proof(nonce=nonce))


def test_single_use_with_an_awaited_store(clock: Clock) -> None:
    """The store of used nonces may be awaited too; the sync methods then say so."""
    nonces = NonceIssuer(single_use=AwaitedCache(clock), clock=clock)
    verifier = ProofVerifier(replay=None, nonces=nonces, clock=clock)
    text = token_proof(nonce=nonces.issue())

    async def run() -> VerifiedProof:
        return await verifier.averify_token_request([("DPoP", text)], "POST", TOKEN_URL)

    assert asyncio.run(run())
    assert refusal(lambda: asyncio.run(run())).reason == "nonce_used"
    with pytest.raises(UsageError, match="averify"):
        ask_token(verifier, text)


def test_a_stranger_cannot_fill_the_cache_of_a_token_endpoint() -> None:
    """The easy call is safe: proofs that are bound to nothing share a tenth, and clients with a grant come in."""
    clock = Clock()
    verifier = ProofVerifier(replay=MemoryReplayCache(max_entries=40, clock=clock), clock=clock)

    def ask(key: Key, **binding: Any) -> VerifiedProof:
        proof = create_proof(key, "POST", TOKEN_URL, iat=NOW)
        return verifier.verify_token_request([("DPoP", proof)], "POST", TOKEN_URL, **binding)

    for _ in range(4):
        ask(generate_key())
    with pytest.raises(ReplayCacheError):
        ask(generate_key())
    ask(KEY, bound_jkt=KEY.thumbprint)
    proof = create_proof(KEY, "POST", TOKEN_URL, iat=NOW)
    checked = verifier.check_token_request([("DPoP", proof)], "POST", TOKEN_URL)
    checked.accept(bound_jkt=None)  # the client has authenticated by then
    with pytest.raises(InvalidProof, match="replayed"):
        verifier.verify_token_request([("DPoP", proof)], "POST", TOKEN_URL, bound_jkt=KEY.thumbprint)


@pytest.mark.parametrize("nonces", [False, True])
def test_a_proof_that_expires_while_its_token_is_looked_up(nonces: bool) -> None:
    """Time is judged again as the proof is recorded: it would be forgotten at once, and accepted twice."""
    clock = Clock()
    added = []

    class Recorder:
        def add(self, key: str, expires_at: float) -> bool:
            added.append(key)
            return True

    issuer = NonceIssuer(slot=10, window=3, clock=clock) if nonces else None
    verifier = ProofVerifier(replay=Recorder(), nonces=issuer, skew=0, clock=clock)
    nonce = None if issuer is None else issuer.issue()
    proof = create_proof(KEY, "GET", URL, access_token=TOKEN, nonce=nonce, iat=NOW)
    late, later = (
        verifier.check_resource([("DPoP", proof)], "GET", URL, access_token=TOKEN),
        verifier.check_resource([("DPoP", proof)], "GET", URL, access_token=TOKEN),
    )
    clock.now += 61
    with pytest.raises(InvalidProof, match="nonce_unknown" if nonces else "iat_too_old"):
        late.accept(bound_jkt=KEY.thumbprint)
    with pytest.raises(InvalidProof, match="nonce_unknown" if nonces else "iat_too_old"):
        asyncio.run(later.aaccept(bound_jkt=KEY.thumbprint))
    assert added == []


def test_an_exp_that_passes_while_the_token_is_looked_up() -> None:
    """It ends the life of a proof earlier than its age does."""
    clock = Clock()
    verifier = ProofVerifier(replay=MemoryReplayCache(clock=clock), skew=0, clock=clock)
    proof = create_proof(KEY, "GET", URL, access_token=TOKEN, iat=NOW, claims={"exp": NOW + 5})
    checked = verifier.check_resource([("DPoP", proof)], "GET", URL, access_token=TOKEN)
    clock.now += 6
    with pytest.raises(InvalidProof, match="expired"):
        checked.accept(bound_jkt=KEY.thumbprint)
