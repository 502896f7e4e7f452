// Whether the map on screen holds: the mirror image is explained, too, which costs as much again, so only when it is asked for.

import { $, put } from "./dom.js";
import * as single from "./explain.js";
import { explain } from "./explaining.js";
import { stability } from "./scores.js";
import { Task } from "./task.js";

let task;
let about; // the view that the words are about

/** Connect the button; called once. */
export function control() {
  task = new Task($("mirror"), $("mirror"), look);
  $("mirror-look").addEventListener("click", look);
}

/** Forget what was said of another view: called after every change and every answer. */
export function show() {
  if (single.asked()?.key === about) return;
  about = undefined;
  task.stop();
  task.problem.hidden = true;
  put($("mirror-said"), "");
}

function look() {
  const { model, picture, question, key } = single.asked();
  about = key;
  put($("mirror-said"), "");
  return task.run("Explaining the mirror image…", async (rest) => {
    const answer = await explain(model, [picture.file], [...question, ["output", "scores"]], rest);
    if (about === key) put($("mirror-said"), stability(answer.results[0].explanations[0].scores));
  });
}
