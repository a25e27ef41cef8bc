// SPDX-License-Identifier: Apache-2.0
// Answers the project's vectors as a program in JavaScript would that was written from their README alone, with npm
// jose for JWTs and thumbprints, oauth4webapi for challenges, and the platform's URL and crypto: {file, document} in,
// {id: answer} out.
import { createHash, createPublicKey, verify } from "node:crypto";
import { createInterface } from "node:readline";

import { calculateJwkThumbprint, decodeProtectedHeader, EmbeddedJWK, jwtVerify } from "jose";
import { customFetch, isDPoPNonceError, protectedResourceRequest } from "oauth4webapi";

const sha256 = (text) => createHash("sha256").update(text).digest("base64url");

class Refusal extends Error {
  constructor(verdict) {
    super(verdict);
    this.verdict = verdict;
  }
}

// The URL without its query and fragment, in the platform's own canonical form.
function target(text) {
  const url = new URL(text);
  url.search = url.hash = "";
  return url.href;
}

function fieldText(value) {
  if (typeof value === "string") return value;
  return value.map((piece) => (typeof piece === "string" ? piece : piece.repeat.repeat(piece.times))).join("");
}

class Server {
  #seen = new Set();

  constructor(now, limits, nonces) {
    this.now = now;
    this.limits = limits;
    this.nonces = nonces;
  }

  async judge({ role, request, headers, bound_jkt: boundJkt }) {
    const fields = headers.filter(([name]) => name.toLowerCase() === "dpop").map(([, value]) => fieldText(value));
    if (fields.length === 0) throw new Refusal(role === "AS" && boundJkt ? "invalid_grant" : "missing");
    if (fields.length > 1) throw new Refusal("invalid_dpop_proof");
    const proof = fields[0].replace(/^[ \t]+|[ \t]+$/g, "");
    if (proof.length > this.limits.max_length) throw new Refusal("invalid_dpop_proof");
    const { payload } = await jwtVerify(proof, EmbeddedJWK, {
      algorithms: this.limits.algs,
      typ: "dpop+jwt",
      currentDate: new Date(this.now * 1000),
      clockTolerance: this.limits.skew,
      requiredClaims: ["jti", "htm", "htu", "iat"],
    });
    const jkt = await calculateJwkThumbprint(decodeProtectedHeader(proof).jwk);
    for (const name of ["jti", "htm", "htu"]) {
      if (typeof payload[name] !== "string" || payload[name] === "") throw new Refusal("invalid_dpop_proof");
    }
    if (payload.jti.length > this.limits.max_jti) throw new Refusal("invalid_dpop_proof");
    if (payload.htu.length > this.limits.max_htu) throw new Refusal("invalid_dpop_proof");
    if (payload.htm !== request.method) throw new Refusal("invalid_dpop_proof");
    const htu = target(payload.htu);
    if (htu !== target(request.url)) throw new Refusal("invalid_dpop_proof");
    this.#checkTime(payload);
    if (role === "RS") {
      if (payload.ath !== sha256(request.access_token)) throw new Refusal("invalid_dpop_proof");
      if (boundJkt !== jkt) throw new Refusal("invalid_token");
    } else if (boundJkt !== undefined && boundJkt !== jkt) throw new Refusal("invalid_grant");
    const memory = JSON.stringify([jkt, htu, payload.jti]);
    if (this.#seen.has(memory)) throw new Refusal("invalid_dpop_proof");
    this.#seen.add(memory);
  }

  #checkTime({ iat, nonce }) {
    if (!(iat > 0)) throw new Refusal("invalid_dpop_proof");
    if (nonce !== undefined && typeof nonce !== "string") throw new Refusal("invalid_dpop_proof");
    let known;
    if (this.nonces !== undefined) {
      known = this.nonces.find((entry) => entry.value === nonce);
      if (known === undefined || known.used) throw new Refusal("use_dpop_nonce");
    }
    const timed = known !== undefined && known.issued_at !== null; // then the nonce says when, not iat
    const age = this.now - iat;
    if (!timed && (age > this.limits.max_age || -age > this.limits.skew)) throw new Refusal("invalid_dpop_proof");
  }

  async verdict(question) {
    try {
      await this.judge(question);
      return "ok";
    } catch (error) {
      return error instanceof Refusal ? error.verdict : "invalid_dpop_proof";
    }
  }
}

async function proofs({ now, limits, cases }) {
  const byId = Object.fromEntries(cases.map((entry) => [entry.id, entry]));
  const answers = {};
  for (const entry of cases) {
    const server = new Server(now, { ...limits, ...entry.limits }, entry.nonces);
    if (entry.after !== undefined) await server.verdict(byId[entry.after]);
    answers[entry.id] = await server.verdict(entry);
  }
  return answers;
}

const answersOf = async (cases, answer) =>
  Object.fromEntries(
    await Promise.all(
      cases.map(async (entry) => {
        try {
          return [entry.id, await answer(entry)];
        } catch {
          return [entry.id, "refused"];
        }
      }),
    ),
  );

function keyVerifies({ alg, jwk, signing_input: input, signature }) {
  const key = { key: createPublicKey({ key: jwk, format: "jwk" }), dsaEncoding: "ieee-p1363" };
  const digest = alg === "Ed25519" ? null : `sha${alg.slice(2)}`;
  return verify(digest, Buffer.from(input), key, Buffer.from(signature, "base64url"));
}

async function asksForNonce({ fields }) {
  const answer = async () => {
    const headers = new Headers({ "dpop-nonce": "n-1" });
    for (const field of fields) headers.append("www-authenticate", field);
    return new Response(null, { status: 401, headers });
  };
  try {
    const url = new URL("https://api.example/");
    await protectedResourceRequest("token", "GET", url, undefined, undefined, { [customFetch]: answer });
  } catch (error) {
    if (isDPoPNonceError(error)) return "retry";
  }
  return "no retry";
}

const files = {
  "proofs.json": proofs,
  "keys.json": ({ cases }) =>
    answersOf(cases, async (entry) => (keyVerifies(entry) ? calculateJwkThumbprint(entry.jwk) : "refused")),
  "challenges.json": ({ cases }) => answersOf(cases, asksForNonce),
  "htu_inputs.json": ({ cases }) => answersOf(cases, ({ url }) => target(url)),
  "htu_pairs.json": ({ cases }) =>
    answersOf(cases, ({ claim, url }) => (target(claim) === target(url) ? "equal" : "not equal")),
  "thumbprints.json": ({ cases }) => answersOf(cases, ({ jwk }) => calculateJwkThumbprint(jwk)),
  "ath.json": ({ cases }) => answersOf(cases, ({ access_token: token }) => sha256(token)),
  "code_jti.json": ({ cases }) => answersOf(cases, ({ code }) => sha256(code)),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { file, document } = JSON.parse(line);
  console.log(JSON.stringify(await files[file](document)));
}
