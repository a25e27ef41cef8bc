// SPDX-License-Identifier: Apache-2.0
// openid-client: retries by itself.
import * as client_ from "openid-client";
import { keyPair } from "./keys.mjs";

export async function client({ key, url, origin, token }) {
  const config = new client_.Configuration({ issuer: origin }, "benchmark");
  client_.allowInsecureRequests(config);
  const DPoP = client_.getDPoPHandle(config, await keyPair(key, "ES256"));
  const target = new URL(url);
  return async () => {
    const response = await client_.fetchProtectedResource(config, token, target, "GET", undefined, undefined, { DPoP });
    await response.arrayBuffer();
    return response.status;
  };
}
