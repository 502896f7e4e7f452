// POSTing pictures to a model, and saying how far it is where it has to be loaded first.

import { explainForm, explainPath } from "../shared/api.js";
import { pause } from "../shared/retries.js";
import { ask, peek } from "./api.js";
import { arriving, loadingWords } from "./loading.js";

const QUIET_MS = 800; // most answers are there sooner, and nobody asks why they take so long
const POLL_MS = 700;

/** POST pictures to a model's `explain`; `options` are [name, value] pairs. */
export async function explain(model, files, options, { signal, say }) {
  const answered = new AbortController();
  const progress = { told: false };
  watch(model, progress, { signal: AbortSignal.any([signal, answered.signal]), say });
  const sayWhy = (text) => progress.told || say(text); // how far it is says more than that it is not there
  try {
    return await ask(explainPath(model), { form: explainForm(files, options), signal, say: sayWhy });
  } finally {
    answered.abort();
  }
}

/** Say how far a model is that was put out, until it is there or nobody waits any more. */
async function watch(name, progress, { signal, say }) {
  try {
    for (let wait = QUIET_MS; ; wait = POLL_MS) {
      await pause(wait, signal);
      const model = find(await peek("models", { signal }), name);
      if (!model || model.state === "failed") return;
      if (model.state === "ready") {
        if (progress.told) say("Explaining…");
        progress.told = false;
        return;
      }
      progress.told = true;
      const version = arriving(model);
      const how = version ? `is being loaded: ${loadingWords(version)}` : "is about to be loaded";
      say(`Model ${model.name} ${how}.`, version?.progress || undefined);
    }
  } catch {
    // The answer itself comes or says what is wrong.
  }
}

const find = ({ models, default: standard }, name) =>
  models.find((model) => model.name === (name || standard)) ??
  models.find(({ versions }) => versions.some(({ aliases }) => aliases.includes(name)));
