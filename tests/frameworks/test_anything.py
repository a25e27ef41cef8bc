# SPDX-License-Identifier: Apache-2.0
"""Whatever a stranger sends: it is refused with a challenge, and never an error of the server."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.in_process import ask_asgi, ask_wsgi
from support.resource import PUBLIC_URL, asgi_application, resource, wsgi_application

import dpop
from dpop import asgi, wsgi
from dpop.server import ProtectedResource

KEY = dpop.generate_key()
TOKEN = f"bound.{KEY.thumbprint}"
GOOD = dpop.create_proof(KEY, "GET", PUBLIC_URL + "/items", access_token=TOKEN)

LATIN_1 = st.text(st.characters(max_codepoint=255))
TARGETS = (
    st.just("/items") | LATIN_1 | LATIN_1.map(lambda text: "/" + text) | LATIN_1.map(lambda text: "/items?" + text)
)
SCHEMES = st.sampled_from(["DPoP ", "dpop ", "Bearer ", "DPoP", "", "DPoP  "])
AUTHORIZATIONS = st.builds(lambda scheme, rest: scheme + rest, SCHEMES, st.just(TOKEN) | LATIN_1)
PROOFS = (
    st.just(GOOD[:-4] + "AAAA") | LATIN_1 | st.builds(lambda at, text: GOOD[:at] + text, st.integers(0, 300), LATIN_1)
)
FIELDS = st.lists(st.tuples(st.just("Authorization"), AUTHORIZATIONS) | st.tuples(st.just("DPoP"), PROOFS), max_size=4)
METHODS = st.sampled_from(["GET", "get", "POST", "OPTIONS", "HEAD", "M-SEARCH"])


def refuses(decides: ProtectedResource, method: str, target: str, fields: list[tuple[str, str]]) -> bool:
    """Whether both integrations do so, with one answer."""
    responses = [
        ask_asgi(asgi.DPoPMiddleware(asgi_application, decides), method, target, fields),
        ask_wsgi(wsgi.DPoPMiddleware(wsgi_application, decides), method, target, fields, check=False),
    ]
    return all(
        status in {400, 401} and any(name == "www-authenticate" for name, _ in headers)
        for status, headers, _ in responses
    )


@given(METHODS, TARGETS, FIELDS)
def test_anything_is_refused(method: str, target: str, fields: list[tuple[str, str]]) -> None:
    """Methods, targets, fields of any bytes."""
    for nonces in (False, True):
        assert refuses(resource(nonces=nonces, bearer=False), method, target, fields)
