// An evaluation's report: a page of its own, which browsers ask for without a key.

import { open } from "./api.js";
import { save } from "./save.js";

export const reportPath = (id) => `evaluations/${encodeURIComponent(id)}/report`;

/** Give the report to the browser as a file. */
export async function saveReport({ id, model }) {
  save(await reportOf(id), `which-layer-${model}.html`);
}

/** Open the report in a tab of its own, with the key that this page has. */
export async function openReport(entry) {
  const tab = window.open("", "_blank"); // at once: what comes long after a click is no answer to it for browsers
  if (!tab) return saveReport(entry);
  try {
    tab.location.href = URL.createObjectURL(await reportOf(entry.id)); // kept as long as this page: that tab may be read again
  } catch (error) {
    tab.close();
    throw error;
  }
}

/** What a page makes has its content security policy: no script of others, and no style but the report's. */
async function reportOf(id) {
  const response = await open(reportPath(id), { accept: "text/html" });
  return new Blob([await response.text()], { type: "text/html;charset=utf-8" });
}
