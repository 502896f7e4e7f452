// Asking this page's own server; where it wants a key, the visitor is asked for one.

import { ask as askServer } from "../shared/api.js";
import { problemOf, unreachable } from "../shared/problems.js";
import { askForKey, key } from "./key.js";

const PATIENCE_S = 60; // told to the server, which gives up first and says why
const GRACE_S = 10;

const MANNER = {
  timeoutS: PATIENCE_S + GRACE_S,
  nextWait: ({ asked, elapsed }) => (elapsed + asked > PATIENCE_S ? null : asked),
  init: { headers: { "X-Request-Timeout-Ms": String(PATIENCE_S * 1000) } },
};

/** For a body that may take minutes to send. */
export const LARGE = { ...MANNER, timeoutS: 1800 };

/**
 * Ask the API; `say` hears why it takes long, `method`, `form` and `json` say what is sent, and `manner` how long it may
 * take.
 */
export async function ask(path, request = {}) {
  for (;;) {
    const sent = key();
    try {
      return await askServer(`api/v1/${path}`, { manner: MANNER, ...request, key: sent });
    } catch (error) {
      if (error.status !== 401 || !(await askForKey(sent))) throw error;
    }
  }
}

/** As `ask`, for what is no JSON, or goes on and on: resolves to the response. */
export async function open(path, { accept, signal } = {}) {
  const address = `api/v1/${path}`;
  for (;;) {
    const sent = key();
    const headers = { Accept: accept, ...(sent && { Authorization: `Bearer ${sent}` }) };
    const response = await fetch(address, { headers, signal }).catch((error) => {
      throw error.name === "AbortError" ? error : unreachable(address);
    });
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (problem.status !== 401 || !(await askForKey(sent))) throw problem;
  }
}

/** Read once what is read again soon anyway: nobody is asked for a key, and nothing is tried again. */
export const peek = (path, { signal } = {}) =>
  askServer(`api/v1/${path}`, { signal, key: key(), manner: { ...MANNER, nextWait: () => null } });
