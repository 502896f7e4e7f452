// Asking this page's own server; where it wants a key, the visitor is asked for one.

import { ask as askServer, explainForm, explainPath } from "../shared/api.js";
import { askForKey, key } from "./key.js";

const PATIENCE_S = 60; // told to the server, which gives up first and says why
const GRACE_S = 10;

const MANNER = {
  timeoutS: PATIENCE_S + GRACE_S,
  nextWait: ({ asked, elapsed }) => (elapsed + asked > PATIENCE_S ? null : asked),
  init: { headers: { "X-Request-Timeout-Ms": String(PATIENCE_S * 1000) } },
};

/** Ask the API; `say` hears why it takes long. */
export async function ask(path, { form, signal, say } = {}) {
  for (;;) {
    const sent = key();
    try {
      return await askServer(`api/v1/${path}`, { form, key: sent, signal, say, manner: MANNER });
    } catch (error) {
      if (error.status !== 401 || !(await askForKey(sent))) throw error;
    }
  }
}

/** POST pictures to a model's `explain`; `options` are [name, value] pairs. */
export const explain = (model, files, options, rest) =>
  ask(explainPath(model), { form: explainForm(files, options), ...rest });
