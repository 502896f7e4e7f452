// Asking this page's own server; where it wants a key, the visitor is asked for one.

import { ask as askServer } from "../shared/api.js";
import { askForKey, key } from "./key.js";

const PATIENCE_S = 60; // told to the server, which gives up first and says why
const GRACE_S = 10;

const MANNER = {
  timeoutS: PATIENCE_S + GRACE_S,
  nextWait: ({ asked, elapsed }) => (elapsed + asked > PATIENCE_S ? null : asked),
  init: { headers: { "X-Request-Timeout-Ms": String(PATIENCE_S * 1000) } },
};

/** Ask the API; `say` hears why it takes long, and `method`, `form` and `json` say what is sent. */
export async function ask(path, request = {}) {
  for (;;) {
    const sent = key();
    try {
      return await askServer(`api/v1/${path}`, { ...request, key: sent, manner: MANNER });
    } catch (error) {
      if (error.status !== 401 || !(await askForKey(sent))) throw error;
    }
  }
}

/** Read once what is read again soon anyway: nobody is asked for a key, and nothing is tried again. */
export const peek = (path, { signal } = {}) =>
  askServer(`api/v1/${path}`, { signal, key: key(), manner: { ...MANNER, nextWait: () => null } });
