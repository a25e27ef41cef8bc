// SPDX-License-Identifier: Apache-2.0
// An oidc-provider on 127.0.0.1 with DPoP on and nonces always required. Prints one JSON line when it
// is ready and ends when its standard input does. Argument: a JWK Set for the private_key_jwt client.
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";

import { Provider } from "oidc-provider";

const jwks = JSON.parse(process.argv[2] ?? '{"keys":[]}');
const redirectUri = "http://127.0.0.1/callback";
const common = {
  redirect_uris: [redirectUri],
  grant_types: ["authorization_code", "refresh_token"],
  response_types: ["code"],
  dpop_bound_access_tokens: true,
};
const clients = [
  { ...common, client_id: "public", token_endpoint_auth_method: "none", application_type: "native" },
  { ...common, client_id: "basic", client_secret: "basic-secret", token_endpoint_auth_method: "client_secret_basic" },
  { ...common, client_id: "post", client_secret: "post-secret", token_endpoint_auth_method: "client_secret_post" },
  { ...common, client_id: "assertion", token_endpoint_auth_method: "private_key_jwt", jwks },
].map((client) => {
  const confidential = client.client_id !== "public";
  return {
    ...client,
    application_type: "native",
    grant_types: confidential ? [...client.grant_types, "client_credentials"] : client.grant_types,
  };
});

const seen = []; // {endpoint, status, error, nonce} of every request with a proof, for the tests to count
const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients,
    cookies: { keys: [randomBytes(16).toString("hex")] },
    features: {
      devInteractions: { enabled: false },
      dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => true },
      pushedAuthorizationRequests: { enabled: true },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      introspection: { enabled: true },
    },
    enabledJWA: { dPoPSigningAlgValues: ["ES256", "Ed25519", "EdDSA", "ES384", "ES512", "PS256", "RS256"] },
    pkce: { required: () => true },
    rotateRefreshToken: true,
    issueRefreshToken: async () => true,
    findAccount: async (_ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
    interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
    ttl: { AccessToken: 600, AuthorizationCode: 60, RefreshToken: 600, Grant: 600, Session: 600, Interaction: 600, IdToken: 600, ClientCredentials: 600 },
  });

  // Consent without a browser: whoever comes is alice, and alice agrees to everything.
  provider.use(async (ctx, next) => {
    if (ctx.path === "/seen") {
      ctx.body = seen.splice(0);
      return;
    }
    if (ctx.path.startsWith("/interaction/")) {
      const { prompt, params, session } = await provider.interactionDetails(ctx.req, ctx.res);
      let result;
      if (prompt.name === "login") {
        result = { login: { accountId: "alice" } };
      } else {
        const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
        grant.addOIDCScope(params.scope);
        result = { consent: { grantId: await grant.save() } };
      }
      await provider.interactionFinished(ctx.req, ctx.res, result, { mergeWithLastSubmission: true });
      ctx.respond = false;
      return;
    }
    await next();
    if (ctx.get("dpop")) {
      seen.push({ path: ctx.path, status: ctx.status, error: ctx.body?.error ?? null });
    }
  });

  server.on("request", provider.callback());
  console.log(
    JSON.stringify({
      issuer,
      authorization_endpoint: `${issuer}/auth`,
      token_endpoint: `${issuer}/token`,
      pushed_authorization_request_endpoint: `${issuer}/request`,
      userinfo_endpoint: `${issuer}/me`,
      revocation_endpoint: `${issuer}/token/revocation`,
      introspection_endpoint: `${issuer}/token/introspection`,
      redirect_uri: redirectUri,
      seen: `${issuer}/seen`,
    }),
  );
});

process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
