// Talking to the server: every answer is JSON or a Problem, and nothing is waited for without an end.

import { askForKey, key } from "./key.js";

const PATIENCE_S = 60; // told to the server, which gives up first and says why
const GRACE_S = 10;
const DEFAULT_WAIT_S = 2; // where Retry-After says nothing

/** What the server, or the lack of one, has against a request. `detail` is meant for people. */
export class Problem extends Error {
  constructor(detail, { status = 0, code = "" } = {}) {
    super(detail);
    Object.assign(this, { status, code });
  }
}

/** Ask the API. Where it is busy, loading or wants a key, ask again; `say` hears why. */
export async function ask(path, { form, signal, say = () => {} } = {}) {
  const end = performance.now() + PATIENCE_S * 1000;
  for (;;) {
    const sentKey = key();
    const response = await send(path, { form, signal, sentKey });
    if (response.ok) return response.json();
    const problem = await problemOf(response);
    if (response.status === 401) {
      if (!(await askForKey(sentKey))) throw problem;
      continue;
    }
    if (response.status !== 503 && response.status !== 429) throw problem;
    const wait = Number(response.headers.get("Retry-After")) || DEFAULT_WAIT_S;
    if (performance.now() + wait * 1000 > end) throw problem;
    say(`${problem.message} Trying again every ${wait} s.`);
    await pause(wait * 1000, signal);
  }
}

async function send(path, { form, signal, sentKey }) {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), (PATIENCE_S + GRACE_S) * 1000);
  const headers = { Accept: "application/json", "X-Request-Timeout-Ms": String(PATIENCE_S * 1000) };
  if (sentKey) headers.Authorization = `Bearer ${sentKey}`;
  try {
    const signals = [late.signal, signal].filter(Boolean);
    return await fetch(`api/v1/${path}`, {
      method: form ? "POST" : "GET", body: form, headers, signal: AbortSignal.any(signals),
    });
  } catch (error) {
    if (late.signal.aborted) throw new Problem(`The server has not answered for ${PATIENCE_S + GRACE_S} s.`);
    throw error.name === "AbortError" ? error : new Problem("The server cannot be reached.");
  } finally {
    clearTimeout(timer);
  }
}

async function problemOf(response) {
  const said = await response.json().catch(() => ({}));
  const detail = said.detail ?? `The server answered ${response.status} ${response.statusText}.`;
  return new Problem(detail, { status: response.status, code: said.code });
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => reject(signal.reason));
  });
}

/** POST pictures to a model's `explain`; `options` are [name, value] pairs. */
export function explain(model, files, options, rest) {
  const form = new FormData();
  for (const file of files) form.append("image", file, file.name);
  for (const [name, value] of options) form.append(name, value);
  return ask(model ? `models/${encodeURIComponent(model)}/explain` : "explain", { form, ...rest });
}
