// SPDX-License-Identifier: Apache-2.0
// Verifies proofs with npm jose, as a server in JavaScript would: JSON lines in, JSON lines out.
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";

import { calculateJwkThumbprint, decodeProtectedHeader, EmbeddedJWK, jwtVerify } from "jose";

const algorithms = ["ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256", "PS384", "PS512", "RS384", "RS512"];

async function verify({ proof, method, url, access_token: token, nonce }) {
  const { payload } = await jwtVerify(proof, EmbeddedJWK, {
    algorithms,
    typ: "dpop+jwt",
    maxTokenAge: "60s",
    requiredClaims: ["jti", "htm", "htu", "iat"],
  });
  const target = new URL(url);
  target.search = target.hash = "";
  if (payload.htm !== method) throw new Error("htm");
  if (new URL(payload.htu).href !== target.href) throw new Error("htu");
  if ((payload.nonce ?? null) !== (nonce ?? null)) throw new Error("nonce");
  const ath = token ? createHash("sha256").update(token).digest("base64url") : null;
  if ((payload.ath ?? null) !== ath) throw new Error("ath");
  return { ok: true, claims: payload, jkt: await calculateJwkThumbprint(decodeProtectedHeader(proof).jwk) };
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = await verify(JSON.parse(line));
  } catch (error) {
    answer = { ok: false, error: String(error.message) };
  }
  console.log(JSON.stringify(answer));
}
