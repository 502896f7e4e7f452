// Whether the map on screen is true. A check takes as long as many explanations, so that one runs only when it is asked for.

import { dataUrl } from "../shared/base64.js";
import { problemOfResult } from "../shared/problems.js";
import { $, put } from "./dom.js";
import * as single from "./explain.js";
import { explain } from "./explaining.js";
import { proof, stability } from "./scores.js";
import { Task } from "./task.js";

// What each asks for beside the question, and what its answer means.
const CHECKS = {
  verify: {
    doing: "Hiding what the map marks, and the same shape elsewhere…",
    asks: [["verify", "true"], ["output", "hidden"], ["max_side", "512"]],
    words: ({ verification }) => proof(verification),
  },
  mirror: {
    doing: "Explaining the mirror image…",
    asks: [["output", "scores"]],
    words: ({ scores }) => stability(scores),
  },
};

let task;
let last; // the check that was asked for last
let about; // the view that the words are about

/** Connect the buttons; called once. */
export function control() {
  task = new Task($("checks"), $("checks"), () => check(last));
  for (const name of Object.keys(CHECKS)) $(`${name}-check`).addEventListener("click", () => check(name));
}

/** Forget what was said of another view: called after every change and every answer. */
export function show() {
  if (single.asked()?.key === about) return;
  about = undefined;
  task.leave();
  for (const name of Object.keys(CHECKS)) say(name, "");
}

async function check(name) {
  const { doing, asks, words } = CHECKS[name];
  const { model, picture, question, key } = single.asked();
  [last, about] = [name, key];
  say(name, "");
  await task.run(doing, async (rest) => {
    const answer = await explain(model, [picture.file], [...question, ...asks], rest);
    rest.signal.throwIfAborted(); // something else is asked by now
    const { error, explanations } = answer.results[0];
    if (error) throw problemOfResult(error);
    say(name, words(explanations[0]), explanations[0].hidden);
  });
}

function say(name, text, hidden) {
  put($(`${name}-said`), text);
  if (name !== "verify") return;
  $("hidden").hidden = !hidden;
  if (hidden) $("hidden-picture").src = dataUrl(hidden);
}
