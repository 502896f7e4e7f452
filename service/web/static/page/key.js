// The API key, where the server wants one: asked for once, kept for this tab, sent to this server alone.

import { $ } from "./dom.js";

const PLACE = "camserve-key";

export const key = () => sessionStorage.getItem(PLACE) ?? "";

let asking = null; // several requests are refused at once; one form answers all

/** Ask for a key because `reason`; false if nobody gave one. `refused` is the key that did not do. */
export function askForKey(reason, refused) {
  if (key() !== refused) return Promise.resolve(true); // given while this request was on its way
  asking ??= show(reason, refused).finally(() => (asking = null));
  return asking;
}

function show(reason, refused) {
  const dialog = $("key-dialog");
  $("key-reason").textContent = refused ? `This key was refused. ${reason}` : reason;
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
