// The single view: one picture, one explanation.

import { dataUrl } from "../shared/base64.js";
import { PICTURE_ITSELF } from "../shared/options.js";
import { problemOfResult } from "../shared/problems.js";
import { explain } from "./explaining.js";
import { $ } from "./dom.js";
import { read } from "./layers.js";
import { displayable, find } from "./pictures.js";
import { show as showPredictions } from "./predictions.js";
import { DEFAULTS, drawing, modelName, question, sentence } from "./questions.js";
import { sureness } from "./scores.js";
import { state } from "./state.js";
import { Task } from "./task.js";
import { paint } from "./viewing.js";

const LARGEST = 1024; // a map is smooth: finer pictures of it cost time and show nothing more

let onScreen = null; // {picture, question, key, answer}; null before the first answer

let task;
let tell;
let visible = ""; // the id of the picture in the viewer

/** Called once; `answered()` is called after every answer. */
export function control(answered) {
  tell = answered;
  task = new Task($("scene"), $("explain-problems"), update, { defaults: DEFAULTS });
}

/** Explain the picture that the state names, as the state says. */
export async function update() {
  await task.run("Explaining…", async ({ signal, say }) => {
    const picture = await find(state.picture);
    const direct = picture && (await displayable(picture.file)); // otherwise the server sends the picture, too
    signal.throwIfAborted(); // something newer is on its way to the screen
    present(picture, direct);
    if (!picture) return;
    if (state.fuse) await read({ say });
    const asked = { picture, question: question() };
    const key = JSON.stringify([picture.id, state.model, asked.question]);
    if (onScreen?.key === key) return; // back from another tab
    const drawn = [["output", "mask"], ["max_side", String(size())], ["scores", "true"], ...(direct ? [] : PICTURE_ITSELF)];
    $("scene").ariaBusy = "true";
    const answer = await explain(modelName(), [picture.file], [...asked.question, ...drawn], { signal, say });
    signal.throwIfAborted();
    const [result] = answer.results;
    if (result.error) throw problemOfResult(result.error);
    show({ ...asked, key, answer }, result, direct);
  });
  if (!task.running) $("scene").ariaBusy = "false";
}

/** The display's own pixels, and no more. */
function size() {
  const { clientWidth, clientHeight } = $("scene");
  const needed = Math.max(clientWidth, clientHeight) * devicePixelRatio;
  return Math.min(LARGEST, Math.max(256, Math.ceil(needed / 64) * 64));
}

/** Put the picture on screen before anything is known about it, or say what to do where there is none. */
function present(picture, direct) {
  $("vacant").hidden = Boolean(picture);
  $("lost").hidden = Boolean(picture) || !state.picture;
  $("viewer").hidden = !picture;
  document.body.classList.toggle("filled", Boolean(picture));
  if (picture && visible === picture.id) return;
  clear();
  visible = picture?.id ?? "";
  if (!picture) return;
  $("sentence").textContent = picture.file.name;
  if (direct) $("viewer").picture = picture.file;
}

function clear() {
  onScreen = null;
  tell();
  $("viewer").explained = null;
  $("viewer").picture = null;
  $("sentence").textContent = "";
  for (const part of document.querySelectorAll(".after-answer")) part.hidden = true;
}

function show(shown, { image, view, predictions, scores, explanations: [explanation] }, direct) {
  onScreen = shown;
  const viewer = $("viewer");
  if (!direct) viewer.picture = dataUrl(explanation.overlay);
  viewer.explained = { image, view, explanation };
  paint();
  describe();
  showPredictions(predictions, explanation);
  $("sureness").textContent = scores ? sureness(scores) : "";
  const { total_ms: total, compute_ms: compute } = shown.answer.timing;
  $("timing").textContent = `Answered in ${total.toFixed(0)} ms, ${compute.toFixed(0)} ms of it in the model.`;
  for (const part of document.querySelectorAll(".after-answer")) part.hidden = false;
  tell();
}

/** Say what is on screen, in the words of the server's lists as far as they have come. */
export function describe() {
  if (!onScreen) return;
  const { results, model } = onScreen.answer;
  $("sentence").textContent = sentence(results[0].explanations[0], model.name);
}

/** What is on screen, or null. `options` has the server draw what the browser drew. */
export const asked = () =>
  onScreen && { ...onScreen, pictures: [onScreen.picture], model: onScreen.answer.model.name, options: [...onScreen.question, ...drawing()] };
