# SPDX-License-Identifier: Apache-2.0
"""The page of `dpop playground` in Chromium: by clicks, by keyboard, on a phone, in the dark, read aloud."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from dpop_cli.commands.playground.command import opening_file
from dpop_cli.commands.playground.page import PlaygroundServer
from dpop_cli.commands.playground.session import Session
from playwright.sync_api import Browser, ConsoleMessage, Page, Response, expect, sync_playwright
from support.chromium import chromium_path
from support.pages import PALE_TEXTS

from dpop.testing import DPoPTestServer

STEPS = ("Log in", "Redeem the code", "Call the API")
ATTACKS = ("Steal the token", "Use another key", "Replay the call", "Change the URL", "Let the clock drift")

_PATIENCE = 60_000  # milliseconds: a busy machine may need more than Playwright's five seconds


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser for all tests of this module; each has a context of its own."""
    expect.set_options(timeout=_PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def context(request: pytest.FixtureRequest) -> dict[str, object]:
    """Settings of the browser's context: those of the test's parameter, or none."""
    settings: dict[str, object] = getattr(request, "param", {})
    return settings


@pytest.fixture
def page(chromium: Browser, context: dict[str, object]) -> Iterator[Page]:
    """The playground, opened by its file. The browser must have nothing to complain of, and no request may fail."""
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    with Session() as session, PlaygroundServer(session) as server, opening_file(server.start_url) as file:
        opened = chromium.new_context(**context)  # type: ignore[arg-type]
        opened.set_default_timeout(_PATIENCE)
        opened.on("console", hear)
        opened.on("weberror", lambda error: complaints.append(str(error.error)))
        opened.on("requestfailed", lambda failed: complaints.append(failed.url))
        page = opened.new_page()
        page.goto(file.as_uri())
        page.wait_for_url(f"{server.origin}/")
        expect(page.locator("#jkt")).not_to_be_empty()
        yield page
        opened.close()
    assert complaints == []


def click(page: Page, *names: str) -> None:
    """Click buttons, each after the requests of the one before."""
    for name in names:
        page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_function("() => turn.then(() => true)")


def captions(page: Page) -> list[str]:
    """The headlines of all requests, the newest first."""
    return page.locator("li.request h3").all_inner_texts()


def newest(page: Page) -> str:
    """How the newest request ended."""
    return page.locator("li.request .verdict").first.inner_text()


def test_a_visit_by_clicks(page: Page) -> None:
    """All steps are accepted, and each attack is refused by its check, which alone is marked."""
    click(page, *STEPS)
    assert len(captions(page)) == 4
    assert newest(page) == "Accepted (200)"
    for attack, check in zip(ATTACKS, ("header", "binding", "replay", "htu", "iat"), strict=True):
        click(page, attack)
        assert newest(page).startswith("Refused, as it should be (401): ")
        first = page.locator("li.request").first
        assert first.locator(".checks .bad").all_text_contents() == [f"✗ {check} failed"]
    click(page, "Refresh", "Revoke", "Call the API")
    assert newest(page).startswith("Refused, as it should be (401): token_inactive")
    assert page.locator("li.request").first.locator(".checks .bad").count() == 0


def test_the_way_of_a_nonce_is_drawn(page: Page) -> None:
    """The refusal brings a nonce, which the cache keeps; the next proof carries it. Neither counts as a failure."""
    click(page, *STEPS[:2])
    second, first = page.locator("figure").all()
    brought = re.search(r"DPoP-Nonce: (\S+)", first.locator("svg").text_content() or "")
    assert brought
    assert "The proof has no nonce." in first.inner_text()
    assert f"The cache had {brought[1]}, and the proof carries it." in second.inner_text()
    assert page.locator("li.request .bad").count() == 0


def test_a_step_too_early_says_why(page: Page) -> None:
    """A button that cannot work yet says so to screen readers, keeps the focus, and tells what is missing."""
    button = page.get_by_role("button", name="Call the API")
    assert button.get_attribute("aria-disabled") == "true"
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("redeem a code first: there is no token")
    expect(button).to_be_focused()


def test_a_visit_by_keyboard(page: Page) -> None:
    """Tab reaches everything in the order of the page, the focus is visible, Enter acts, and focus stays."""
    for name in STEPS:
        for _ in range(20):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            assert focused.evaluate("(each) => getComputedStyle(each).outlineStyle") == "solid"
            if focused.inner_text() == name:
                break
        page.keyboard.press("Enter")
        page.wait_for_function("() => turn.then(() => true)")
        expect(page.get_by_role("button", name=name, exact=True)).to_be_focused()
    assert newest(page) == "Accepted (200)"


def test_each_control_has_a_name(page: Page) -> None:
    """A screen reader has a name for each control, and hears how each request ended."""
    click(page, *STEPS)
    page.evaluate("() => { for (const each of document.querySelectorAll('details')) each.open = true }")
    tree = page.locator("body").aria_snapshot()
    controls = re.findall(r"- '?(?:button|textbox|combobox|checkbox|link)\b.*", tree)
    assert len(controls) > 30
    assert [control for control in controls if '"' not in control] == []
    expect(page.get_by_role("status")).to_have_text("You call the API: token and proof. Accepted (200).")
    for region in ("You", "Attacks", "Key", "Server"):
        expect(page.get_by_role("region", name=region)).to_be_visible()


@pytest.mark.parametrize("context", [{"viewport": {"width": 360, "height": 740}, "has_touch": True}], indirect=True)
def test_a_phone_shows_everything_without_scrolling_sideways(page: Page) -> None:
    """The newest verdict is on the first screen; with everything open, nothing is wider than the phone."""
    click(page, *STEPS, "Steal the token")
    assert page.locator("li.request .verdict").first.evaluate("(each) => each.getBoundingClientRect().top") < 740
    page.evaluate("() => { for (const each of document.querySelectorAll('details')) each.open = true }")
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360
    small = "(all) => all.filter((each) => each.offsetHeight < 40).map((each) => each.textContent)"
    assert page.get_by_role("button").evaluate_all(small) == []


def test_texts_are_readable_in_light_and_dark(page: Page) -> None:
    """The page follows the system's colours, and each text has enough contrast."""
    click(page, *STEPS, "Steal the token", "Revoke")
    page.evaluate("() => { for (const each of document.querySelectorAll('details')) each.open = true }")
    papers = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        papers.add(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
        assert page.evaluate(PALE_TEXTS) == []
    assert papers == {"rgb(247, 247, 245)", "rgb(20, 23, 26)"}


@pytest.mark.parametrize("context", [{"permissions": ["clipboard-read", "clipboard-write"]}], indirect=True)
def test_the_code_is_copied_as_it_is_shown(page: Page) -> None:
    """The button puts exactly the code into the clipboard."""
    click(page, *STEPS)
    page.get_by_text("As code").first.click()
    click(page, "Copy Python: You call the API: token and proof.")
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert "DPoPAdapter(key, origins=origin, access_token=token)" in copied
    assert copied in page.locator("li.request").first.locator("pre").all_text_contents()
    expect(page.get_by_role("status")).to_have_text("The Python code is copied.")


def test_the_key_in_the_browser_cannot_leave_it(page: Page) -> None:
    """All steps work with a key of WebCrypto; neither the page nor a program gets its private half."""
    page.get_by_label("Make the key in this browser").check()
    click(page, *STEPS, "Refresh", "Change the URL")
    assert newest(page).startswith("Refused, as it should be (401): htu_mismatch")
    expect(page.locator("#jkt")).to_contain_text(", in the browser")
    refused = "() => crypto.subtle.exportKey('jwk', pair.privateKey).then(() => 'left', (error) => error.name)"
    assert page.evaluate(refused) == "InvalidAccessError"
    assert page.evaluate("() => signature(btoa(btoa('{\"typ\":\"JWT\"}') + '.e30'))") == ""
    page.reload()
    click(page, "Refresh")
    expect(page.get_by_role("status")).to_contain_text("the page did not sign")


def test_another_mode_and_a_lever(page: Page) -> None:
    """Google's mode has Bearer tokens, with which the theft succeeds; a lever makes the next request fail."""
    page.get_by_label("Test server like").select_option("google")
    click(page, "Use it", *STEPS, "Steal the token")
    assert newest(page) == "Accepted: the attack works at this server (200)"
    page.get_by_text("Levers of the test server").click()
    page.get_by_label("Lever", exact=True).select_option("fail_next")
    page.get_by_label("Value, as JSON").fill("1")
    click(page, "Set the lever", "Call the API")
    assert newest(page).startswith("Refused (503)")


def test_ones_own_server(page: Page) -> None:
    """The user logs in at a server that they typed; it sends the browser back, and the steps go on."""
    with DPoPTestServer(mode="okta") as own:
        page.get_by_text("Your own server").click()
        page.get_by_label("Issuer").fill(own.issuer)
        page.get_by_label("Client ID").fill(own.client_id)
        page.get_by_label("Client secret, if there is one").fill(own.client_secret)
        page.get_by_label("URL of an API, if there is one").fill(own.resource)
        page.get_by_label("It is like").select_option("okta")
        click(page, "Use your server", "Log in")
        with page.expect_popup() as opened:
            page.get_by_role("link", name="Continue at your server").click()
        expect(opened.value.get_by_role("heading")).to_have_text("You are logged in")
        opened.value.close()
        page.evaluate("() => dispatchEvent(new Event('focus'))")
        expect(page.get_by_role("button", name="Redeem the code")).to_have_attribute("aria-disabled", "false")
        click(page, "Redeem the code", "Call the API", "Use another key")
        assert newest(page).startswith("Refused, as it should be (400): invalid_dpop_proof")
        assert {each.endpoint for each in own.requests} >= {"metadata", "authorize", "token", "resource"}


ATTACKS_OF_A_PAGE = """async (target) => {
  const post = (init) => fetch(target + "do/login", { method: "POST", credentials: "include", body: "{}", ...init })
    .then(() => "read", () => "blocked")
  const found = [
    await post({ mode: "no-cors" }),
    await post({ headers: { "X-DPoP-Playground": "1" } }),
    await fetch(target, { credentials: "include" }).then(() => "read", () => "blocked"),
  ]
  const frame = document.createElement("iframe")
  const loaded = new Promise((done) => { frame.onload = done })
  frame.src = target
  document.body.append(frame)
  await loaded
  return found
}"""
FORM_OF_A_PAGE = """(target) => {
  const form = document.createElement("form")
  Object.assign(form, { method: "post", action: target + "do/login" })
  document.body.append(form)
  form.submit()
}"""


def test_a_page_on_another_port_cannot_use_the_playground(chromium: Browser) -> None:
    """To browsers it is the same site, so they send the strict cookie; all the same each request is refused."""
    with Session() as session, PlaygroundServer(session) as server, DPoPTestServer() as stranger:
        context = chromium.new_context()
        page = context.new_page()
        page.goto(server.start_url)
        page.wait_for_url(f"{server.origin}/")
        expect(page.locator("#jkt")).not_to_be_empty()
        page.goto(f"{stranger.issuer}/jwks")
        responses: list[Response] = []
        context.on("response", lambda response: responses.append(response))  # noqa: PLW0108 - Playwright marks it
        assert page.evaluate(ATTACKS_OF_A_PAGE, f"{server.origin}/") == ["blocked"] * 3
        with page.expect_navigation():
            page.evaluate(FORM_OF_A_PAGE, f"{server.origin}/")
        assert "This request comes from another page." in page.content()
        seen = {(got.request.method, got.status, "cookie" in got.request.all_headers()) for got in responses}
        assert ("POST", 403, True) in seen
        assert {status for _, status, _ in seen} <= {403, 501}
        assert session._test_server.requests == []
        context.close()
