// SPDX-License-Identifier: Apache-2.0
// A client of the signing agent, by docs/agent-protocol.md and with nothing but Node.js: opens a key, makes proofs, and
// verifies each with the key. JSON lines in, JSON lines out.
import { createHash, createPublicKey, randomUUID, verify } from "node:crypto";
import { lstatSync } from "node:fs";
import { connect } from "node:net";
import { dirname } from "node:path";
import { createInterface } from "node:readline";

const encode = (data) => Buffer.from(data).toString("base64url");

// A squatter gains nothing: the socket and its folder are ours or root's, and nobody else can write there.
function check(path) {
  const socket = lstatSync(path);
  if (!socket.isSocket()) throw new Error("no socket");
  for (const status of [socket, lstatSync(dirname(path))]) {
    if (![0, process.geteuid()].includes(status.uid)) throw new Error("the socket or its folder is another user's");
  }
  if (lstatSync(dirname(path)).mode & 0o022) throw new Error("others can write to the folder of the socket");
}

class Agent {
  #socket;
  #buffer = Buffer.alloc(0);
  #waiting = []; // responses come in the order of their requests

  constructor(path) {
    check(path);
    this.#socket = connect(path);
    this.#socket.on("data", (data) => this.#received(data));
    this.#socket.on("close", () => this.#waiting.splice(0).forEach(({ reject }) => reject(new Error("agent gone"))));
    this.#socket.on("error", () => {});
  }

  #received(data) {
    this.#buffer = Buffer.concat([this.#buffer, data]);
    while (this.#buffer.length >= 4) {
      const end = 4 + this.#buffer.readUInt32BE(0);
      if (this.#buffer.length < end) return;
      const response = JSON.parse(this.#buffer.subarray(4, end).toString("utf8"));
      this.#buffer = this.#buffer.subarray(end);
      const { resolve, reject } = this.#waiting.shift();
      if (response.v !== 1) reject(new Error("another version"));
      else if (response.error) reject(Object.assign(new Error(response.message), response));
      else resolve(response);
    }
  }

  request(op, members = {}) {
    const body = Buffer.from(JSON.stringify({ v: 1, op, ...members }));
    const head = Buffer.alloc(4);
    head.writeUInt32BE(body.length);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#socket.write(Buffer.concat([head, body]));
    });
  }

  close() {
    this.#socket.end();
  }
}

async function proof(agent, name, { htm, htu, nonce, access_token }) {
  const { alg, jwk } = await agent.request("key", { key: name });
  const payload = { jti: randomUUID(), htm, htu, iat: Math.floor(Date.now() / 1000) };
  if (nonce) payload.nonce = nonce;
  if (access_token) payload.ath = createHash("sha256").update(access_token).digest("base64url");
  const input = `${encode(JSON.stringify({ typ: "dpop+jwt", alg, jwk }))}.${encode(JSON.stringify(payload))}`;
  const { signature } = await agent.request("sign", { key: name, input });
  const key = createPublicKey({ key: jwk, format: "jwk" });
  const good = verify("sha256", Buffer.from(input), { key, dsaEncoding: "ieee-p1363" }, Buffer.from(signature, "base64url"));
  if (!good) throw new Error("the signature does not verify");
  return `${input}.${signature}`;
}

for await (const line of createInterface({ input: process.stdin })) {
  const { socket, key, requests } = JSON.parse(line);
  try {
    const agent = new Agent(socket);
    const results = await Promise.allSettled(requests.map((request) => proof(agent, key, request)));
    agent.close();
    console.log(JSON.stringify(results.map(({ value, reason }) => value ?? { error: reason.error, reason: reason.reason })));
  } catch (error) {
    console.log(JSON.stringify([{ error: error.message }]));
  }
}
