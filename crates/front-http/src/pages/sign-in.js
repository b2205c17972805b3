// Signing in for a command line (/login) and making a passkey (/enrol). What the page needs is in the fragment of its
// address: #device=SECRET&code=XXXX-XXXX&principal=/people/liu, or #link=SECRET&principal=/people/liu. No browser sends
// that anywhere.

const at = (id) => document.getElementById(id);
const fragment = new URLSearchParams(location.hash.slice(1));

// The secret is good once, and has no business in the address bar or the history.
history.replaceState(null, "", location.pathname);

function toBytes(text) {
  const padded = text.replaceAll("-", "+").replaceAll("_", "/");
  return Uint8Array.from(atob(padded), (character) => character.charCodeAt(0)).buffer;
}

function toText(buffer) {
  const bytes = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

// The options of WebAuthn as JSON, with bytes where the browser wants them.
function options(message) {
  const given = JSON.parse(new TextDecoder().decode(toBytes(message)));
  const publicKey = given.publicKey ?? given;
  const withBytes = (list) => list?.map((one) => ({ ...one, id: toBytes(one.id) }));
  const read = { ...publicKey, challenge: toBytes(publicKey.challenge) };
  if (publicKey.user) read.user = { ...publicKey.user, id: toBytes(publicKey.user.id) };
  if (publicKey.allowCredentials) read.allowCredentials = withBytes(publicKey.allowCredentials);
  if (publicKey.excludeCredentials) read.excludeCredentials = withBytes(publicKey.excludeCredentials);
  return { publicKey: read };
}

// What the authenticator answered, as JSON.
function answer(credential) {
  const from = credential.response;
  const response = { clientDataJSON: toText(from.clientDataJSON) };
  for (const field of ["attestationObject", "authenticatorData", "signature", "userHandle"]) {
    if (from[field]) response[field] = toText(from[field]);
  }
  if (from.getTransports) response.transports = from.getTransports();
  return JSON.stringify({
    id: credential.id,
    rawId: toText(credential.rawId),
    type: credential.type,
    response,
    extensions: credential.getClientExtensionResults(),
  });
}

// An error of the server, in its own words.
class Refused extends Error {}

async function ask(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    credentials: "omit",
    cache: "no-store",
  });
  const reply = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(reply.detail ?? `the server answered with status ${response.status}`);
  return reply;
}

function say(text) {
  at("status").textContent = text;
}

function complain(text) {
  at("error").textContent = text.charAt(0).toUpperCase() + text.slice(1);
}

function explain(error) {
  if (error instanceof Refused) return error.message;
  if (error.name === "NotAllowedError") return "No passkey was used: it was cancelled, or it took too long. Try again.";
  if (error.name === "InvalidStateError") return "This device or key holds a passkey for you already.";
  if (error.name === "SecurityError") {
    return `The browser refuses passkeys for ${location.hostname}: open this page under the server's own name.`;
  }
  if (error instanceof TypeError) return "The server does not answer.";
  return String(error.message ?? error);
}

async function signIn() {
  const principal = at("principal").value.trim();
  const start = await ask("/v1/login", { step: "passkey-start", principal });
  const credential = await navigator.credentials.get(options(start.message));
  say("Signing in …");
  await ask("/v1/login", {
    step: "passkey-finish",
    attempt: start.attempt,
    credential: answer(credential),
    device: fragment.get("device"),
  });
  return "You are signed in. Your terminal goes on; you may close this page.";
}

// What the link was exchanged for, once: whoever cancels and tries again goes on with it.
let enrolment = null;

async function enrol() {
  const label = at("label").value.trim();
  enrolment ??= await ask("/v1/enrol", { step: "passkey-start", link: fragment.get("link") });
  const { attempt, message } = enrolment;
  const credential = await navigator.credentials.create(options(message));
  say("Keeping the passkey …");
  await ask("/v1/enrol", { step: "passkey-finish", attempt, credential: answer(credential), label });
  return "The passkey is made. You may close this page.";
}

// Why nothing can be done here, if so.
function trouble(secret, command) {
  if (!secret) return `The address of this page is not complete. Start with \`${command}\` and open what it shows.`;
  if (!window.isSecureContext || !window.PublicKeyCredential) {
    return "This browser has no passkeys here: they need https, or http://localhost on the server's own host.";
  }
  return null;
}

const login = document.body.dataset.page === "login";
const work = login ? signIn : enrol;
const wrong = login
  ? trouble(fragment.get("device"), "byname login --passkey")
  : trouble(fragment.get("link"), "byname passkey add");

if (login && fragment.get("code")) {
  at("code").textContent = fragment.get("code");
  at("compare").hidden = false;
}
if (wrong) {
  complain(wrong);
} else {
  at("form").hidden = false;
  const whose = fragment.get("principal");
  if (login && whose) at("principal").value = whose;
  if (!login && whose) at("whose").textContent = `for ${whose}`;
  const field = at(login ? "principal" : "label");
  (field.value ? at("go") : field).focus();
}

at("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  complain("");
  say("Waiting for the passkey …");
  at("go").disabled = true;
  try {
    say(await work());
    at("form").hidden = true;
    if (login) at("compare").hidden = true;
  } catch (error) {
    say("");
    complain(explain(error));
    at("go").disabled = false;
    at("go").focus();
  }
});
