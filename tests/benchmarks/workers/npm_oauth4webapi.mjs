// SPDX-License-Identifier: Apache-2.0
// oauth4webapi: its handle keeps the nonces, the one retry is the caller's to write, as its examples do.
import * as oauth from "oauth4webapi";
import { keyPair } from "./keys.mjs";

export async function client({ key, url, token }) {
  const handle = oauth.DPoP({ client_id: "benchmark" }, await keyPair(key, "ES256"));
  const target = new URL(url);
  const once = () =>
    oauth.protectedResourceRequest(token, "GET", target, undefined, undefined, {
      DPoP: handle,
      [oauth.allowInsecureRequests]: true,
    });
  return async () => {
    let response;
    try {
      response = await once();
    } catch (error) {
      if (!oauth.isDPoPNonceError(error)) throw error;
      response = await once();
    }
    await response.arrayBuffer();
    return response.status;
  };
}
