"use strict";
const at = (id) => document.getElementById(id);
const BUTTONS = [...document.querySelectorAll("button[data-do]")];
const MARKS = { passed: "✓", failed: "✗", asked: "?", "not judged": "–" };
const LOOKS = { passed: "good", failed: "bad", asked: "ask" };
const OUTCOMES = {
  accepted: ["good", "Accepted"],
  asked: ["ask", "The server asks for a nonce"],
  "as-it-should-be": ["good", "Refused, as it should be"],
  "attack-worked": ["bad", "Accepted: the attack works at this server"],
  refused: ["bad", "Refused"],
};

// --- drawing. Text only, never HTML: a server chooses much of what is shown here.

function make(kind, text, look) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (look) made.className = look;
  return made;
}

function draw(parent, kind, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function lines(pairs) {
  return pairs.map(([name, value]) => `${name}: ${value}`).join("\n");
}

function checks(found, outcome) {
  const list = make("ul", undefined, "checks");
  found.forEach(({ name, rule, verdict }, number) => {
    const said = verdict === "failed" && outcome === "asked" && name === "nonce" ? "asked" : verdict;
    const item = make("li", undefined, LOOKS[said]);
    const mark = make("span", `${MARKS[said]} `);
    mark.setAttribute("aria-hidden", "true");
    item.append(mark, name, make("span", ` ${said}`, "heard"));
    item.title = rule;
    item.style.animationDelay = `${number * 60}ms`;
    list.append(item);
  });
  return list;
}

// The nonce goes from the client's cache into the proof, to the server, and a new one from there into the cache.
function way({ sent, received }) {
  const figure = make("figure");
  const picture = draw(figure, "svg", { viewBox: `0 0 330 ${received ? 92 : 60}`, "aria-hidden": "true" });
  for (const [x, name, value, look] of [
    [1, "cache", received ?? sent ?? "empty", received ? "new" : ""], [122, "proof", sent ?? "no nonce", ""], [243, "server", "", ""]]) {
    const box = draw(picture, "g", { class: look });
    draw(box, "rect", { x, y: 8, width: 86, height: 48, rx: 6 });
    draw(box, "text", { x: x + 43, y: value ? 28 : 36 }, name);
    draw(box, "text", { x: x + 43, y: 46, class: "value" }, value);
  }
  for (const x of [87, 208]) {
    draw(picture, "path", { d: `M${x} 32h28`, class: sent ? "" : "none" });
    draw(picture, "path", { d: `M${x + 35} 32l-8 -4v8z`, class: "tip" });
  }
  if (received) {
    draw(picture, "path", { d: "M286 56v32H44v-24" });
    draw(picture, "path", { d: "M44 57l-4 8h8z", class: "tip" });
    draw(picture, "text", { x: 165, y: 82, class: "value" }, `DPoP-Nonce: ${received}`);
  }
  const first = sent ? `The cache had ${sent}, and the proof carries it.` : "The proof has no nonce.";
  const then = received ? ` The response brings ${received}, which the cache keeps for the next proof.` : "";
  figure.append(make("figcaption", first + then));
  return figure;
}

function codes(request) {
  const code = make("details");
  code.append(make("summary", "As code: curl, Python, JavaScript"));
  const found = Object.entries(request.code);
  code.append(make("p", found.length ? "It runs as it is while the playground runs. Key and tokens are in files that only you can read."
    : "The key of this request is in the browser and cannot leave it, so no other program can send the request.", "quiet"));
  for (const [name, text] of found) {
    const copy = make("button", `Copy ${name}`);
    copy.setAttribute("aria-label", `Copy ${name}: ${request.caption}`);
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        say(`The ${name} code is copied.`);
      } catch {
        say("The browser does not let the page copy; select the text.");
      }
    });
    code.append(make("h4", name), make("pre", text), copy);
  }
  return code;
}

function verdict({ outcome, status, refusal }) {
  const why = refusal ? `: ${refusal.reason}${refusal.detail ? ` — ${refusal.detail}` : ""}` : "";
  return `${OUTCOMES[outcome][1]} (${status})${why}`;
}

function shown(request) {
  const item = make("li", undefined, "request");
  item.append(make("h3", request.caption), make("p", verdict(request), `verdict ${OUTCOMES[request.outcome][0]}`));
  if (request.checks.length) item.append(make("h4", "The checks"), checks(request.checks, request.outcome));
  if (request.nonce.sent || request.nonce.received) item.append(make("h4", "The nonce’s way"), way(request.nonce));
  const wire = make("details", undefined, "wire");
  wire.append(make("summary", "As it was sent"));
  const form = request.form.map(([name, value]) => `${name}=${value}`).join("\n&");
  const sent = make("div");
  sent.append(make("h4", "Request"),
    make("pre", [`${request.method} ${request.url}`, lines(request.sent), form && `\n${form}`].filter(Boolean).join("\n")),
    make("h4", "Response"),
    make("pre", [`${request.status}`, lines(request.received), request.body && `\n${request.body}`].filter(Boolean).join("\n")));
  const columns = make("div", undefined, "columns");
  columns.append(sent);
  if (request.proof) {
    const proof = make("div");
    proof.append(make("h4", "The proof, decoded"), make("pre", JSON.stringify(request.proof, null, 2)));
    columns.append(proof);
  }
  wire.append(columns);
  item.append(wire, codes(request));
  return item;
}

function add(requests) {
  for (const older of document.querySelectorAll("details.wire")) older.open = false;
  for (const request of requests) at("requests").prepend(shown(request));
  for (const newer of [...document.querySelectorAll("details.wire")].slice(0, requests.length)) newer.open = true;
  at("empty").hidden = at("requests").children.length > 0;
}

function say(text, isShownBelow = false) {
  at("said").textContent = text;
  at("said").className = isShownBelow ? "heard" : "";
}

// --- the state of the playground

let state = {};

function options(select, values) {
  if (select.options.length !== values.length) select.replaceChildren(...values.map((value) => new Option(value)));
}

function follow(found) {
  state = { ...found, embedded: Boolean(found.mode) };
  for (const button of BUTTONS) {
    button.setAttribute("aria-disabled", String(Boolean(button.dataset.needs) && !state[button.dataset.needs]));
  }
  at("visit").hidden = !state.visit;
  if (state.visit) at("visit").href = state.visit;
  at("server").textContent = `${state.mode ? `Test server (${state.mode})` : "Your server"} at ${state.issuer}`;
  at("jkt").textContent = `${state.jkt}${state.in_browser ? ", in the browser" : ""}`;
  at("redirect").textContent = state.callback;
  options(at("mode"), state.modes);
  options(at("profile"), state.modes);
  const fresh = !at("lever").options.length;
  if (state.embedded) options(at("lever"), [...Object.keys(state.levers), ...state.actions]);
  if (fresh && state.embedded) {
    at("mode").value = state.mode;
    showLever();
  }
}

function showLever() {
  const name = at("lever").value;
  at("value").value = JSON.stringify(name in state.levers ? state.levers[name] : true);
}

// --- a key that never leaves the browser

let pair = null;

async function newKey() {
  pair = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);
  const { kty, crv, x, y } = await crypto.subtle.exportKey("jwk", pair.publicKey);
  return { kty, crv, x, y };
}

const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (each) => each.charCodeAt(0));

async function signature(input) {
  const data = bytes(input);
  const header = JSON.parse(atob(new TextDecoder().decode(data).split(".")[0].replace(/-/g, "+").replace(/_/g, "/")));
  if (!pair || header.typ !== "dpop+jwt") return ""; // the key signs proofs only
  const made = await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, pair.privateKey, data);
  return btoa(String.fromCharCode(...new Uint8Array(made))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

// --- actions, one after the other

async function post(name, body) {
  const response = await fetch(`/do/${name}`, {
    method: "POST", body: JSON.stringify(body), headers: { "X-DPoP-Playground": "1", "Content-Type": "application/json" } });
  if (response.headers.get("Content-Type") !== "application/json") return { problem: await response.text() };
  return response.json();
}

async function act(name, body, done) {
  try {
    let found = await post(name, body);
    while (found.sign) found = await post("signed", { signature: await signature(found.sign) });
    if (found.requests) add(found.requests);
    if (found.state) follow(found.state);
    const last = found.requests?.at(-1);
    if (found.problem) say(found.problem);
    else if (done) say(done);
    else if (last) say(`${last.caption} ${verdict(last)}.`, true);
    return !found.problem;
  } catch {
    say("The playground does not respond. Is dpop playground still running?");
    return false;
  }
}

if (matchMedia("(max-width: 61.9rem)").matches) at("settings").open = false; // room for the requests

let turn = Promise.resolve();
const doNext = (work) => { turn = turn.then(work); };

async function begin(name, body, done) {
  at("requests").replaceChildren();
  at("empty").hidden = false;
  if (await act(name, body, done) && name !== "restart") at("in-browser").checked = false;
}

function onSubmit(form, work) {
  at(form).addEventListener("submit", (event) => {
    event.preventDefault();
    doNext(work);
  });
}

const DONE = { lapse: "All nonces have lapsed. Refresh shows how the client learns a new one." };
for (const button of BUTTONS) {
  button.addEventListener("click", () => doNext(() => act(button.dataset.do, {}, DONE[button.dataset.do])));
}

async function restart() {
  const jwk = at("in-browser").checked ? await newKey() : null;
  await begin("restart", jwk ? { jwk } : {}, jwk ? "A new key, made by the browser." : "A new key.");
}

at("restart").addEventListener("click", () => doNext(restart));
at("in-browser").addEventListener("change", () => doNext(restart));
at("lever").addEventListener("change", showLever);
onSubmit("mode-form", () => begin("mode", { mode: at("mode").value }, `A new test server, like ${at("mode").value}.`));
onSubmit("lever-form", () => {
  let value = at("value").value;
  try {
    value = JSON.parse(value);
  } catch { /* a text without quotes */ }
  return act("lever", { name: at("lever").value, value }, `${at("lever").value} is set.`);
});
onSubmit("own-form", () => begin("own", {
  issuer: at("issuer").value, client_id: at("client-id").value, client_secret: at("client-secret").value,
  scope: at("scope").value, api: at("api").value, profile: at("profile").value,
}, "The playground uses your server. Log in."));
// The login at one's own server is in another tab; its response came to the playground meanwhile.
addEventListener("focus", () => { if (state.visit) doNext(() => act("state", {})); });
doNext(() => act("state", {}));
