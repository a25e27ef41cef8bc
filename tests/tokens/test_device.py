# SPDX-License-Identifier: Apache-2.0
"""The device grant: polling until the user has decided, each time with a new proof."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Received, Recorder, Response

import dpop
from dpop.errors import InvalidTokenResponseError, ReauthorizationError, TokenRefusedError
from dpop.requests import TokenEndpoint
from dpop.tokens import DeviceAuthorization, ServerMetadata
from dpop.tokens._authorization import read_device_authorization
from dpop.tokens._steps import NoResponse, Pause

CODES = {
    "device_code": "d",
    "user_code": "ABCD-EFGH",
    "verification_uri": "https://as.example/device",
    "expires_in": 60,
}


@pytest.fixture(params=sorted(ENDPOINTS))
def name(request: pytest.FixtureRequest) -> str:
    """Each integration in turn."""
    return str(request.param)


def poll(name: str, *responses: dict[str, Any], clock: Any = lambda: 1000.0) -> tuple[Any, Recorder]:
    """What comes of polling a server with these answers, without waiting between them."""
    left = [dict(response) for response in responses]

    def response(request: Received) -> Response:
        if request.target == "/device":
            return Response(200, [], json.dumps({**CODES, "interval": 0}).encode())
        body = left.pop(0) if len(left) > 1 else left[0]
        return Response(400 if "error" in body else 200, [], json.dumps(body).encode())

    with Recorder(response) as recorder:
        server = ServerMetadata(
            token_endpoint=recorder.url("/token"), device_authorization_endpoint=recorder.url("/device")
        )
        with Endpoint(name, dpop.generate_key(), server, client_id="c", clock=clock) as endpoint:
            device = endpoint.start_device(scope="read")
            assert "ABCD" not in repr(device)
            try:
                return endpoint.poll_device(device), recorder
            except dpop.DPoPError as error:
                return error, recorder


def test_pending_then_granted(name: str) -> None:
    """authorization_pending is no error; each question has its own proof."""
    pending = {"error": "authorization_pending"}
    tokens, recorder = poll(name, pending, pending, {"access_token": "a", "token_type": "DPoP"})
    assert tokens.access_token == "a"
    jtis = [request.claims["jti"] for request in recorder.requests if request.target == "/token"]
    assert len(set(jtis)) == len(jtis) == 3


@pytest.mark.parametrize(
    ("error", "kind"), [("access_denied", TokenRefusedError), ("expired_token", ReauthorizationError)]
)
def test_refusals_end_it(name: str, error: str, kind: type[Exception]) -> None:
    """A user who says no, or codes the server calls expired, end the questions."""
    result, recorder = poll(name, {"error": error})
    assert type(result) is kind
    assert len(recorder.requests) == 2


def test_time_ends_it(name: str) -> None:
    """Once the codes have expired, nobody asks any more."""
    ticks = iter(range(1000, 100_000, 20))
    result, recorder = poll(name, {"error": "authorization_pending"}, clock=lambda: float(next(ticks)))
    assert isinstance(result, ReauthorizationError)
    assert len(recorder.requests) < 5


@pytest.mark.parametrize(
    "changes",
    [
        {"device_code": None},
        {"user_code": "a\x1b[2J"},
        {"verification_uri": 7},
        {"verification_uri": None, "verification_url": "https://as.example/\nx"},
    ],
)
def test_bad_codes(changes: dict[str, Any]) -> None:
    """Codes that are missing, or could not be shown, are no codes."""
    with pytest.raises(InvalidTokenResponseError):
        read_device_authorization({**CODES, **changes}, 1000)


@pytest.mark.parametrize(
    ("changes", "expires_at", "interval"),
    [
        ({"expires_in": "1800", "interval": "5"}, 2800, 5),
        ({"expires_in": None, "interval": None}, 1900, 5),
        ({"expires_in": "", "interval": ""}, 1900, 5),
        ({"expires_in": -1, "interval": -1}, 1900, 5),
        ({"expires_in": {}, "interval": []}, 1900, 5),
        ({"expires_in": 1e8, "interval": 1e6}, 1000 + 86_400, 300),
        ({"expires_in": "60.5", "interval": "0.5"}, 1060.5, 0.5),
    ],
)
def test_odd_numbers(
    changes: dict[str, Any], expires_at: float, interval: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Strings are read, and what makes no sense is replaced by what is usual; the log says so, unless it is null."""
    device = read_device_authorization({**CODES, **changes}, 1000)
    assert (device.expires_at, device.interval) == (expires_at, interval)
    replaced = [name for name, value in changes.items() if value in ("", -1, {}, [])]
    assert [record.args and record.args[0] for record in caplog.records] == replaced  # type: ignore[index]


def test_codes_in_another_form() -> None:
    """A code of digits that is a number, and a line break behind the address, can be understood."""
    device = read_device_authorization({**CODES, "user_code": 123456, "verification_uri": "https://as.example/d\n"}, 0)
    assert (device.user_code, device.verification_uri) == ("123456", "https://as.example/d")


def test_googles_name_of_the_address() -> None:
    """Google's device endpoint calls it verification_url."""
    codes = {**CODES, "verification_url": "https://www.google.example/device"}
    del codes["verification_uri"]
    assert read_device_authorization(codes, 1000).verification_uri == "https://www.google.example/device"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("https://as.example/device?user_code=A", True), ("https://as.example/\x1b[2J", False), (5, False)],
)
def test_a_complete_address_is_one_that_can_be_shown(given: object, kept: bool) -> None:
    """What a terminal would not print as it stands is left out; the user can type the code."""
    device = read_device_authorization({**CODES, "verification_uri_complete": given}, 0.0)
    assert device.verification_uri_complete == (given if kept else None)


def test_an_outage_does_not_end_the_polling() -> None:
    """After some failures a question comes every 40 seconds; when the codes expire, the error says what has failed."""
    now = [1000.0]
    with TokenEndpoint(
        dpop.generate_key(), "https://as.example/token", client_id="c", clock=lambda: now[0]
    ) as endpoint:
        device = DeviceAuthorization("d", "u", "https://as.example/device", None, 1300.0, 5.0)
        steps = endpoint.grants.poll_device(device)
        step: Any = next(steps)
        waits = []
        with pytest.raises(ReauthorizationError, match=r"the last question failed: .*nothing was sent") as caught:
            while True:
                if isinstance(step, Pause):
                    waits.append(step.seconds)
                    now[0] += step.seconds
                    step = steps.send(None)
                else:
                    step = steps.throw(NoResponse("as.example:443 refused the connection", sent=False))
    assert waits == [5, 10, 20, 40, 40, 40, 40, 40, 40, 40]
    assert caught.value.error == "expired_token"
