// The API key, where the server wants one: asked for once, kept for this tab, sent to this server alone.

import { $ } from "./dom.js";

const PLACE = "camserve-key";

export const key = () => sessionStorage.getItem(PLACE) ?? "";

let asking = null; // several requests are refused at once; one form answers all

/** Ask for a key; false if nobody gave one. `refused` is the key that did not do, or empty; `reason` is why, in words. */
export function askForKey(refused, reason) {
  if (key() !== refused) return Promise.resolve(true); // given while this request was on its way
  asking ??= show(reason ?? (refused ? WRONG : MISSING)).finally(() => (asking = null));
  return asking;
}

const WRONG = "This key was refused. Is it complete?";
const MISSING = "It answers those who have one. Whoever runs it gives them out.";

function show(reason) {
  const dialog = $("key-dialog");
  $("key-reason").textContent = reason;
  $("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  $("key-use").onclick = () => dialog.close("use");
  $("key-cancel").onclick = () => dialog.close();
  $("key").onkeydown = ({ key: pressed }) => {
    if (pressed === "Enter") dialog.close("use");
  };
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "use" ? $("key").value.trim() : "";
      if (given) sessionStorage.setItem(PLACE, given);
      resolve(given !== "");
    }, { once: true });
  });
}
