// Talking to a server's API: every answer is JSON or a Problem, and nothing is waited for without an end.

import { late, Problem, problemOf, unreachable } from "./problems.js";
import { retried } from "./retries.js";

/**
 * Ask `url`; with a `form`, POST it. Where the server is busy or loading, ask again; `say` hears why.
 *
 * `method` is another verb, `json` what is sent as such. An answer without a body is null.
 *
 * `key` is the API key, if there is one. `manner` is how this caller asks: `timeoutS` for one answer, `nextWait` as in
 * `retried`, and `init` for `fetch`.
 */
export async function ask(url, { form, json, method, key, signal, say = () => {}, manner }) {
  const waiting = async (response, seconds) => {
    const { message } = await problemOf(response);
    say(`${message} Trying again in ${seconds} s.`);
  };
  const send = () => sent(url, { form, json, method, key, signal, manner });
  const response = await retried(send, { nextWait: manner.nextWait, waiting, signal });
  if (!response.ok) throw await problemOf(response);
  return response.status === 204 ? null : response.json();
}

async function sent(url, { form, json, method = form ? "POST" : "GET", key, signal, manner: { timeoutS, init } }) {
  const lapse = new AbortController();
  const timer = setTimeout(() => lapse.abort(), timeoutS * 1000);
  const body = json ? JSON.stringify(json) : form;
  const headers = {
    Accept: "application/json", ...init.headers,
    ...(json && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }),
  };
  const signals = [lapse.signal, signal].filter(Boolean);
  try {
    return await fetch(url, { method, body, ...init, headers, signal: AbortSignal.any(signals) });
  } catch (error) {
    if (lapse.signal.aborted) throw late(timeoutS);
    throw error.name === "AbortError" ? error : unreachable(url);
  } finally {
    clearTimeout(timer);
  }
}

/** The path of a model's `explain`, or of the default model's. */
export const explainPath = (model) => (model ? `models/${encodeURIComponent(model)}/explain` : "explain");

/** Pictures and options, [name, value] pairs, as a form. */
export function explainForm(pictures, options) {
  const form = new FormData();
  for (const picture of pictures) form.append("image", picture, picture.name ?? "picture");
  for (const [name, value] of options) form.append(name, value);
  return form;
}

/** A file's content from an address that is no part of the API. */
export async function download(url, { signal, missing }) {
  const response = await fetch(url, { signal }).catch((error) => {
    throw error.name === "AbortError" ? error : unreachable(url);
  });
  if (!response.ok) throw new Problem(missing(response), { code: "no_picture", status: response.status });
  return response.blob();
}
