// SPDX-License-Identifier: Apache-2.0
import * as DPoP from "dpop";
import { keyPair } from "./keys.mjs";

export async function mint({ key, alg, method, url, nonce, token }) {
  const pair = await keyPair(key, alg);
  return () => DPoP.generateProof(pair, url, method, nonce ?? undefined, token ?? undefined);
}
