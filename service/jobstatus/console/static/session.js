// The token: in this variable and nowhere else, so that it goes with the page.

let token = "";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const isSignedIn = () => token !== "";

/** Take a token into use, and return true; false for a text that no header can hold. */
export function signIn(given) {
  const text = given.trim();
  if (!/^[\x21-\x7e]+$/.test(text)) return false;
  token = text;
  return true;
}

export function signOut() {
  token = "";
}

/** Exchange the ticket of a link for a token. */
export async function redeem(ticket) {
  const answer = await fetch("api/sign-in", { method: "POST", headers: { Authorization: `Ticket ${ticket}` } });
  const found = await documentOf(answer);
  signIn(found.token);
}

/** The answer of the console's API; rejects with Refused and the service's sentence. */
export async function ask(path, { method = "GET", signal } = {}) {
  return documentOf(await request(path, { method, signal }));
}

export function request(path, { method = "GET", signal } = {}) {
  return fetch(`api/${path}`, { method, signal, headers: { Authorization: `Bearer ${token}` }, cache: "no-store", credentials: "omit" });
}

export async function documentOf(answer) {
  let found = {};
  try {
    found = await answer.json();
  } catch {
    throw new Refused(answer.status, `The service answered with ${answer.status}.`);
  }
  if (!answer.ok) throw new Refused(answer.status, found.message ?? `The service answered with ${answer.status}.`);
  return found;
}
