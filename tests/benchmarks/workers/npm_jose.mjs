// SPDX-License-Identifier: Apache-2.0
// jose, as a careful user would write DPoP with it.
import { createHash, randomUUID } from "node:crypto";
import { EmbeddedJWK, SignJWT, calculateJwkThumbprint, exportJWK, jwtVerify } from "jose";
import { keyPair } from "./keys.mjs";

const hash = (text) => createHash("sha256").update(text).digest("base64url");

export async function mint({ key, alg, method, url, nonce, token }) {
  const { privateKey, publicKey } = await keyPair(key, alg);
  const header = { typ: "dpop+jwt", alg, jwk: await exportJWK(publicKey) };
  return () =>
    new SignJWT({ jti: randomUUID(), htm: method, htu: url, ...(token && { ath: hash(token), nonce }) })
      .setIssuedAt()
      .setProtectedHeader(header)
      .sign(privateKey);
}

export async function verify({ proofs, method, url, nonce, token, jkts }) {
  const seen = new Set();
  const ath = hash(token);
  let turn = 0;
  return async () => {
    const jkt = jkts[turn];
    const { payload, protectedHeader } = await jwtVerify(proofs[turn++], EmbeddedJWK, {
      typ: "dpop+jwt",
      algorithms: ["ES256"],
      maxTokenAge: 60,
      clockTolerance: 30,
    });
    if ((await calculateJwkThumbprint(protectedHeader.jwk)) !== jkt || seen.has(payload.jti)) throw new Error("binding");
    if (payload.htm !== method || payload.htu !== url || payload.ath !== ath || payload.nonce !== nonce) throw new Error("claims");
    seen.add(payload.jti);
  };
}
