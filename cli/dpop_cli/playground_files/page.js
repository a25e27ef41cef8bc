"use strict";
const REQUESTS = document.getElementById("requests");
const SAID = document.getElementById("said");
const BUTTONS = [...document.querySelectorAll("button[data-do]")];
const MARKS = { passed: "✓", failed: "✗", "not judged": "–" };

// Text only, never HTML: a server chooses much of what is shown here.
function make(kind, text, look) {
  const made = document.createElement(kind);
  if (text !== undefined) made.textContent = text;
  if (look) made.className = look;
  return made;
}

function lines(pairs) {
  return pairs.map(([name, value]) => `${name}: ${value}`).join("\n");
}

function checks(found) {
  const list = make("ul", undefined, "checks");
  for (const { name, rule, verdict } of found) {
    const item = make("li", `${MARKS[verdict]} ${name}`, { passed: "good", failed: "bad" }[verdict]);
    item.title = `${verdict}: ${rule}`;
    item.setAttribute("aria-label", `${name} ${verdict}, ${rule}`);
    list.append(item);
  }
  return list;
}

function way(nonce) {
  const drawn = make("p", undefined, "way");
  const steps = [];
  if (nonce.sent) steps.push(`cache ${nonce.sent}`, "proof", "server");
  else steps.push("cache: none used", "server");
  if (nonce.received) steps.push(`cache ${nonce.received}, for the next proof`);
  steps.forEach((step, number) => drawn.append(...(number ? ["→"] : []), make("span", step)));
  return drawn;
}

function shown(request) {
  const item = make("li", undefined, "request");
  item.append(make("h3", request.caption));
  const good = request.status < 400;
  const why = request.refusal ? ` — ${request.refusal.reason}: ${request.refusal.detail}` : "";
  item.append(make("p", `${good ? "Accepted" : "Refused"}, ${request.status}${why}`, `verdict ${good ? "good" : "bad"}`));
  if (request.checks.length) item.append(make("h4", "The checks"), checks(request.checks));
  if (request.nonce.sent || request.nonce.received) item.append(make("h4", "The nonce's way"), way(request.nonce));
  const columns = make("div", undefined, "columns");
  const sent = make("div");
  const form = request.form.map(([name, value]) => `${name}=${value}`).join("\n&");
  sent.append(make("h4", "Request"),
    make("pre", [`${request.method} ${request.url}`, lines(request.sent), form && `\n${form}`].filter(Boolean).join("\n")));
  sent.append(make("h4", "Response"),
    make("pre", [`${request.status}`, lines(request.received), request.body && `\n${request.body}`].filter(Boolean).join("\n")));
  columns.append(sent);
  if (request.proof) {
    const proof = make("div");
    proof.append(make("h4", "The proof, decoded"), make("pre", JSON.stringify(request.proof, null, 2)));
    columns.append(proof);
  }
  item.append(columns);
  const code = make("details");
  code.append(make("summary", "As code: curl, Python, JavaScript"));
  for (const [name, text] of Object.entries(request.code)) {
    const copy = make("button", `Copy ${name}`);
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "Select the text to copy it";
      }
    });
    code.append(make("h4", name), make("pre", text), copy);
  }
  item.append(code);
  return item;
}

function follow(state) {
  for (const button of BUTTONS) button.disabled = Boolean(button.dataset.needs) && !state[button.dataset.needs];
  document.getElementById("state").textContent = `Server ${state.issuer}, your key ${state.jkt}`;
}

async function act(name) {
  SAID.textContent = "";
  try {
    const response = await fetch(`/do/${name}`, {
      method: "POST", body: "{}", headers: { "X-DPoP-Playground": "1", "Content-Type": "application/json" } });
    const found = response.headers.get("Content-Type") === "application/json" ? await response.json()
      : { problem: await response.text() };
    if (found.problem) {
      SAID.textContent = found.problem;
      return;
    }
    if (name === "restart") REQUESTS.replaceChildren();
    for (const request of found.requests) REQUESTS.prepend(shown(request));
    document.getElementById("empty").hidden = REQUESTS.children.length > 0;
    if (name === "lapse") SAID.textContent = "All nonces have lapsed. Refresh shows how the client learns a new one.";
    follow(found.state);
  } catch {
    SAID.textContent = "The playground does not respond. Is dpop playground still running?";
  }
}

for (const button of BUTTONS) button.addEventListener("click", () => act(button.dataset.do));
act("state");
