// SPDX-License-Identifier: Apache-2.0
// An oidc-provider on 127.0.0.1 with DPoP on and nonces always required. It prints one JSON line when it
// is ready and ends when its standard input does. Argument: the JWK Set of the private_key_jwt client.
import { randomBytes } from "node:crypto";
import { createServer } from "node:http";

import { errors, Provider } from "oidc-provider";

const redirectUri = "http://127.0.0.1/callback";
const credentials = {
  public: { token_endpoint_auth_method: "none" },
  basic: { token_endpoint_auth_method: "client_secret_basic", client_secret: "basic-secret" },
  post: { token_endpoint_auth_method: "client_secret_post", client_secret: "post-secret" },
  assertion: { token_endpoint_auth_method: "private_key_jwt", jwks: JSON.parse(process.argv[2] ?? '{"keys":[]}') },
};
const clients = Object.entries(credentials).map(([name, credential]) => ({
  client_id: name,
  application_type: "native", // http and a loopback address are for native applications
  redirect_uris: [redirectUri],
  response_types: ["code"],
  grant_types: ["authorization_code", "refresh_token", ...(name === "public" ? [] : ["client_credentials"])],
  dpop_bound_access_tokens: true,
  ...credential,
}));

const lifetime = 600;
const api = "https://api.example/"; // a resource (RFC 8707); a token that names none is for userinfo
const configuration = {
  clients,
  cookies: { keys: [randomBytes(16).toString("hex")] },
  features: {
    devInteractions: { enabled: false },
    dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => true },
    pushedAuthorizationRequests: { enabled: true },
    clientCredentials: { enabled: true },
    revocation: { enabled: true },
    introspection: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: (_ctx, resource) => {
        if (resource !== api) throw new errors.InvalidTarget();
        return { scope: "things", audience: api, accessTokenFormat: "opaque", accessTokenTTL: lifetime };
      },
    },
  },
  enabledJWA: {
    dPoPSigningAlgValues: [
      ...["ES256", "ES384", "ES512", "Ed25519", "EdDSA"],
      ...["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"],
    ],
  },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: () => true,
  findAccount: (_ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  ttl: Object.fromEntries(
    ["AccessToken", "AuthorizationCode", "ClientCredentials", "Grant", "IdToken", "Interaction", "RefreshToken", "Session"]
      .map((what) => [what, lifetime]),
  ),
};

const seen = []; // every request of an application, for the tests to count
const byBrowser = (path) => path === "/seen" || path.startsWith("/auth") || path.startsWith("/interaction/");

// Consent without a browser: whoever comes is alice, and alice agrees to everything.
async function consent(provider, ctx) {
  const { prompt, params, session } = await provider.interactionDetails(ctx.req, ctx.res);
  let result = { login: { accountId: "alice" } };
  if (prompt.name !== "login") {
    const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
    grant.addOIDCScope(params.scope);
    grant.addResourceScope(api, "things");
    result = { consent: { grantId: await grant.save() } };
  }
  await provider.interactionFinished(ctx.req, ctx.res, result, { mergeWithLastSubmission: true });
  ctx.respond = false;
}

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, configuration);
  provider.use(async (ctx, next) => {
    if (ctx.path === "/seen") {
      ctx.body = seen.splice(0);
    } else if (ctx.path.startsWith("/interaction/")) {
      await consent(provider, ctx);
    } else {
      await next();
      if (!byBrowser(ctx.path)) {
        const { method, path, status, body, response } = ctx;
        seen.push({
          method,
          path,
          status,
          error: body?.error ?? null,
          proof: ctx.get("dpop") || null,
          nonce: response.get("dpop-nonce") || null,
        });
      }
    }
  });
  server.on("request", provider.callback());
  console.log(
    JSON.stringify({
      issuer,
      authorization_endpoint: provider.urlFor("authorization"),
      token_endpoint: provider.urlFor("token"),
      pushed_authorization_request_endpoint: provider.urlFor("pushed_authorization_request"),
      userinfo_endpoint: provider.urlFor("userinfo"),
      revocation_endpoint: provider.urlFor("revocation"),
      introspection_endpoint: provider.urlFor("introspection"),
      dpop_signing_alg_values_supported: configuration.enabledJWA.dPoPSigningAlgValues,
      redirect_uri: redirectUri,
      api,
      seen: `${issuer}/seen`,
      clients: Object.fromEntries(clients.map(({ client_id: id, client_secret: secret }) => [id, secret ?? null])),
    }),
  );
});

process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
