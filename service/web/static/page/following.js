// How an evaluation goes on, as the server tells it. An EventSource could send no key.

import { pause } from "../shared/retries.js";
import { open } from "./api.js";

const AGAIN_MS = 3000;

export const isOver = ({ state }) => ["done", "failed", "cancelled"].includes(state);

/** Whether a refusal stands: it would be the same the next time. */
const stands = ({ status }) => status >= 400 && status < 500 && status !== 429;

/**
 * Call `told(entry)` with whatever is said of an evaluation, and resolve to how it ended. What breaks off is taken up
 * again; `lost(error)` hears of it.
 */
export async function follow(id, { told, lost, signal }) {
  for (;;) {
    try {
      for await (const entry of events(id, signal)) {
        told(entry);
        if (isOver(entry)) return entry;
      }
    } catch (error) {
      if (signal.aborted || stands(error)) throw error;
      lost(error);
    }
    await pause(AGAIN_MS, signal);
  }
}

async function* events(id, signal) {
  const { body } = await open(`evaluations/${encodeURIComponent(id)}/events`, { accept: "text/event-stream", signal });
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = `${rest}${value}`.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const [, data] = block.match(/^data: (.*)$/m) ?? []; // otherwise it says that it is still there
      if (data) yield JSON.parse(data);
    }
  }
}
