// SPDX-License-Identifier: Apache-2.0
// Mints proofs with the libraries that clients in JavaScript use: JSON lines in, JSON lines out. Those that only
// send requests send theirs to a fetch that keeps the header and answers with nothing.
import { createHash, randomUUID } from "node:crypto";
import { createInterface } from "node:readline";

import * as dpop from "dpop";
import * as jose from "jose";
import * as oauth from "oauth4webapi";
import * as openid from "openid-client";

const issuer = "https://as.example";
const pairs = new Map();

async function generated(alg) {
  // A key of the platform that none of them makes by itself: they may sign by it all the same.
  if (alg === "Ed448") return crypto.subtle.generateKey({ name: "Ed448" }, true, ["sign", "verify"]);
  return oauth.generateKeyPair(alg, { extractable: true, crv: "Ed25519" });
}

async function pair(alg) {
  if (!pairs.has(alg)) pairs.set(alg, await generated(alg));
  return pairs.get(alg);
}

// The name before RFC 9864, for those who ask for it; the library says to rename it so.
function renamed(alg, modifyAssertion) {
  return alg === "EdDSA" ? { [modifyAssertion]: (header) => { header.alg = "EdDSA"; } } : undefined;
}

// What they send, once they know the nonce.
async function sent(handle, send, nonce) {
  let proof;
  const capture = async (_url, { headers }) => {
    proof = new Headers(headers).get("dpop");
    const fields = { "content-type": "application/json", ...(nonce ? { "dpop-nonce": nonce } : {}) };
    return new Response('{"access_token":"t","token_type":"DPoP"}', { headers: fields });
  };
  await send(capture, handle);
  if (nonce) await send(capture, handle);
  return proof;
}

const mints = {
  async dpop({ keys, method, url, nonce, token }) {
    return dpop.generateProof(keys, url, method, nonce ?? undefined, token ?? undefined);
  },

  async jose({ keys, alg, method, url, nonce, token }) {
    const claims = { jti: randomUUID(), htm: method, htu: url };
    if (nonce) claims.nonce = nonce;
    if (token) claims.ath = createHash("sha256").update(token).digest("base64url");
    const jwk = await jose.exportJWK(keys.publicKey);
    const header = { alg, typ: "dpop+jwt", jwk };
    return new jose.SignJWT(claims).setProtectedHeader(header).setIssuedAt().sign(keys.privateKey);
  },

  async oauth4webapi({ keys, alg, method, url, nonce, token }) {
    const client = { client_id: "c" };
    const handle = oauth.DPoP(client, keys, renamed(alg, oauth.modifyAssertion));
    const send = (customFetch, DPoP) => {
      const options = { DPoP, [oauth.customFetch]: customFetch };
      if (token) return oauth.protectedResourceRequest(token, method, new URL(url), undefined, undefined, options);
      return oauth.clientCredentialsGrantRequest(
        { issuer, token_endpoint: url }, client, oauth.None(), new URLSearchParams(), options);
    };
    return sent(handle, send, nonce);
  },

  async "openid-client"({ keys, alg, method, url, nonce, token }) {
    const config = new openid.Configuration({ issuer, token_endpoint: url }, "c", undefined, openid.None());
    const handle = openid.getDPoPHandle(config, keys, renamed(alg, openid.modifyAssertion));
    const send = (customFetch, DPoP) => {
      config[openid.customFetch] = customFetch;
      if (token) return openid.fetchProtectedResource(config, token, new URL(url), method, undefined, undefined, { DPoP });
      return openid.clientCredentialsGrant(config, {}, { DPoP });
    };
    return sent(handle, send, nonce);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const asked = JSON.parse(line);
    const keys = await pair(asked.alg);
    const proof = await mints[asked.library]({ ...asked, keys, token: asked.access_token });
    const jkt = await jose.calculateJwkThumbprint(await jose.exportJWK(keys.publicKey));
    answer = { proof, jkt };
  } catch (error) {
    answer = { error: `${error.name}: ${error.message}` };
  }
  console.log(JSON.stringify(answer));
}
