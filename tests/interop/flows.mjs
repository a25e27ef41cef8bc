// SPDX-License-Identifier: Apache-2.0
// An application in JavaScript: metadata, client credentials, code with PKCE and dpop_jkt, refresh and an API, with
// a nonce whenever a server asks for one. One JSON line in says where and with which library, one out what it got.
import { createInterface } from "node:readline";

import * as oauth from "oauth4webapi";
import * as openid from "openid-client";

const redirectUri = "http://127.0.0.1/callback";

// The user agrees at once: the code is in the redirect.
async function agree(url) {
  const answer = await fetch(url, { redirect: "manual" });
  if (answer.status >= 400 || !answer.headers.get("location")) throw new Error(`authorize: ${answer.status}`);
  return new URL(answer.headers.get("location"));
}

async function api(answer) {
  if (answer.status !== 200) throw new Error(`API: ${answer.status} ${answer.headers.get("www-authenticate")}`);
  return answer.json();
}

async function withOauth4webapi({ issuer, resource, alg, client_id, client_secret }) {
  const insecure = { [oauth.allowInsecureRequests]: true };
  const url = new URL(issuer);
  const as = await oauth.processDiscoveryResponse(
    url, await oauth.discoveryRequest(url, { algorithm: "oauth2", ...insecure }));
  const keys = await oauth.generateKeyPair(alg);
  const client = { client_id };
  const DPoP = oauth.DPoP(client, keys);
  const options = { DPoP, ...insecure };
  const authentication = client_secret ? oauth.ClientSecretBasic(client_secret) : oauth.None();

  // What its documentation says to do: send, process, and once more if the error is about the nonce.
  async function asked(send, process) {
    try {
      return await process(await send());
    } catch (error) {
      if (!oauth.isDPoPNonceError(error)) throw error;
      return process(await send());
    }
  }
  const got = {};
  const call = async (token, method, body) =>
    api(await asked(
      () => oauth.protectedResourceRequest(token, method, new URL(resource), undefined, body, options), (answer) => answer));
  if (client_secret) {
    const credentials = await asked(
      () => oauth.clientCredentialsGrantRequest(as, client, authentication, new URLSearchParams(), options),
      (answer) => oauth.processClientCredentialsResponse(as, client, answer));
    got.client_credentials = { ...credentials, api: await call(credentials.access_token, "GET") };
  }
  const verifier = oauth.generateRandomCodeVerifier();
  const where = new URL(as.authorization_endpoint);
  where.search = new URLSearchParams({
    client_id,
    redirect_uri: redirectUri,
    response_type: "code",
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    dpop_jkt: await DPoP.calculateThumbprint(),
    state: "s",
  });
  const parameters = oauth.validateAuthResponse(as, client, await agree(where), "s");
  const code = await asked(
    () => oauth.authorizationCodeGrantRequest(as, client, authentication, parameters, redirectUri, verifier, options),
    (answer) => oauth.processAuthorizationCodeResponse(as, client, answer));
  got.code = { ...code, api: await call(code.access_token, "POST", "a body") };
  const refresh = await asked(
    () => oauth.refreshTokenGrantRequest(as, client, authentication, code.refresh_token, options),
    (answer) => oauth.processRefreshTokenResponse(as, client, answer));
  got.refresh = { ...refresh, api: await call(refresh.access_token, "GET") };
  return { ...got, jkt: await DPoP.calculateThumbprint() };
}

async function withOpenidClient({ issuer, resource, alg, client_id, client_secret }) {
  const authentication = client_secret ? openid.ClientSecretPost(client_secret) : openid.None();
  const config = await openid.discovery(new URL(issuer), client_id, undefined, authentication, {
    algorithm: "oauth2",
    execute: [openid.allowInsecureRequests],
  });
  const keys = await openid.randomDPoPKeyPair(alg);
  const DPoP = openid.getDPoPHandle(config, keys);
  const got = {};
  const call = async (token, method, body) =>
    api(await openid.fetchProtectedResource(config, token, new URL(resource), method, body, undefined, { DPoP }));
  if (client_secret) {
    const credentials = await openid.clientCredentialsGrant(config, {}, { DPoP });
    got.client_credentials = { ...credentials, api: await call(credentials.access_token, "GET") };
  }
  const verifier = openid.randomPKCECodeVerifier();
  const parameters = {
    redirect_uri: redirectUri,
    code_challenge: await openid.calculatePKCECodeChallenge(verifier),
    code_challenge_method: "S256",
    state: "s",
  };
  // By PAR, whose proof binds the code.
  const where = await openid.buildAuthorizationUrlWithPAR(config, parameters, { DPoP });
  const checks = { pkceCodeVerifier: verifier, expectedState: "s" };
  const code = await openid.authorizationCodeGrant(config, await agree(where), checks, undefined, { DPoP });
  got.code = { ...code, api: await call(code.access_token, "POST", "a body") };
  const refresh = await openid.refreshTokenGrant(config, code.refresh_token, undefined, { DPoP });
  got.refresh = { ...refresh, api: await call(refresh.access_token, "GET") };
  return { ...got, jkt: await DPoP.calculateThumbprint() };
}

const libraries = { oauth4webapi: withOauth4webapi, "openid-client": withOpenidClient };

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    const asked = JSON.parse(line);
    answer = await libraries[asked.library](asked);
  } catch (error) {
    answer = { error: `${error.name}: ${error.message}: ${error.cause?.error ?? error.cause?.message ?? ""}` };
  }
  console.log(JSON.stringify(answer));
}
