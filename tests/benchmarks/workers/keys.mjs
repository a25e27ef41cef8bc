// SPDX-License-Identifier: Apache-2.0
// A key pair of Web Crypto from PEM.
import { createPrivateKey, createPublicKey, webcrypto } from "node:crypto";

const ALGORITHMS = {
  ES256: { name: "ECDSA", namedCurve: "P-256" },
  Ed25519: { name: "Ed25519" },
  PS256: { name: "RSA-PSS", hash: "SHA-256" },
};

export async function keyPair(pem, alg) {
  const how = ALGORITHMS[alg];
  const pkcs8 = createPrivateKey(pem).export({ type: "pkcs8", format: "der" });
  const spki = createPublicKey(pem).export({ type: "spki", format: "der" });
  return {
    privateKey: await webcrypto.subtle.importKey("pkcs8", pkcs8, how, false, ["sign"]),
    publicKey: await webcrypto.subtle.importKey("spki", spki, how, true, ["verify"]),
  };
}
