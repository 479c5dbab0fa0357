// Signing in with an issuer of OpenID Connect: authorization code with PKCE (RFC 7636), in a window of its own.
//
// The verifier, the state and the token are values of this page, so nothing has to be stored for the way back.

const TAKEN = "taken";
const WINDOW = "popup,width=520,height=720";

/** How to sign in, as the service wrote it into the page: null where it is not configured. */
export function provider() {
  const element = document.querySelector('meta[name="sign-in"]');
  return element ? JSON.parse(element.content) : null;
}

/**
 * Prepare one attempt. Resolves with a function that opens the issuer's window, to be called by a click, and resolves
 * with an access token. It rejects with a sentence, or with an AbortError when `signal` aborts.
 */
export async function prepare(known) {
  if (!known.authorization_endpoint) throw new Error("The issuer does not answer. Reload the page to try again, or paste a token.");
  if (!crypto.subtle) throw new Error("This address is not secure enough to sign in: use HTTPS, or localhost.");
  const verifier = random();
  const state = random();
  const redirect = new URL("signed-in.html", location.href.replace(/[?#].*$/s, "")).href;
  const address = new URL(known.authorization_endpoint);
  const asked = {
    response_type: "code",
    client_id: known.client_id,
    redirect_uri: redirect,
    scope: known.scope,
    state,
    code_challenge: encoded(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier))),
    code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(asked)) address.searchParams.set(name, value);
  if (known.audience) address.searchParams.set("audience", known.audience);

  return async (signal) => {
    const answer = await answerOf(address.href, state, signal);
    if (answer.iss !== undefined && answer.iss !== known.issuer) throw new Error("Another issuer answered."); // RFC 9207
    if (!answer.code) throw new Error(`The issuer refused: ${answer.error_description ?? answer.error ?? "it sent no code"}.`);
    return exchange(known, { code: answer.code, redirect_uri: redirect, code_verifier: verifier }, signal);
  };
}

/** What the issuer sends back to the window that is opened. Only pages of this origin that know the state can say it. */
function answerOf(address, state, signal) {
  return new Promise((resolve, reject) => {
    const channel = new BroadcastChannel(`sign-in ${state}`);
    const stop = () => {
      channel.close();
      reject(signal.reason);
    };
    signal.addEventListener("abort", stop, { once: true });
    channel.addEventListener("message", ({ data }) => {
      signal.removeEventListener("abort", stop);
      channel.postMessage(TAKEN);
      channel.close();
      resolve(data);
    }, { once: true });
    if (window.open(address, "_blank", WINDOW)) return;
    signal.removeEventListener("abort", stop);
    channel.close();
    reject(new Error("The browser did not open a window. Allow this page to open one."));
  });
}

async function exchange(known, given, signal) {
  let answer;
  let found;
  try {
    answer = await fetch(known.token_endpoint, {
      method: "POST",
      body: new URLSearchParams({ grant_type: "authorization_code", client_id: known.client_id, ...given }),
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
      signal,
    });
    found = (await answer.json()) ?? {};
  } catch {
    signal.throwIfAborted();
    throw new Error("The issuer gave no token. It has to allow this page's origin at its token endpoint.");
  }
  if (!answer.ok || typeof found.access_token !== "string") throw new Error(`The issuer gave no token: ${found.error_description ?? found.error ?? answer.status}.`);
  return found.access_token;
}

function random() {
  return encoded(crypto.getRandomValues(new Uint8Array(32)));
}

/** Base64url without padding. */
function encoded(bytes) {
  return btoa(String.fromCharCode(...new Uint8Array(bytes))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
