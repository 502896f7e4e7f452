// Many pictures in requests of a sensible size. One bad picture costs its own answer and nobody else's.

import { Problem } from "../shared/problems.js";
import { explain } from "./explaining.js";

const MOST_PICTURES = 8; // answers come in steps small enough to watch
const MOST_BYTES = 12 * 1024 * 1024;
const LANES = 2; // one is decoded while the other is computed

/** Cut `items`, which have a `picture`, into lists for one request each. */
export function chunks(items) {
  const found = [];
  let bytes = 0;
  for (const item of items) {
    const { size } = item.picture.file;
    const last = found.at(-1);
    if (last && last.length < MOST_PICTURES && bytes + size <= MOST_BYTES) {
      last.push(item);
      bytes += size;
    } else {
      found.push([item]);
      bytes = size;
    }
  }
  return found;
}

/** Explain `items`; each gets its `result` or its `error`, and `done()` is called after every request. */
export async function explainAll(items, { model, options, done, ...rest }) {
  const queue = chunks(items);
  const lane = async () => {
    while (queue.length) {
      const chunk = queue.shift();
      try {
        await explainChunk(chunk, queue, { model, options, ...rest });
      } catch (error) {
        queue.length = 0; // the other lane finishes what it has begun
        throw error;
      }
      done();
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: LANES }, lane));
  const failed = lanes.find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
}

async function explainChunk(chunk, queue, { model, options, ...rest }) {
  let answer;
  try {
    answer = await explain(model, chunk.map(({ picture }) => picture.file), options, rest);
  } catch (error) {
    if (!isAboutPictures(error)) throw error;
    if (chunk.length > 1) queue.push(...chunk.map((item) => [item]));
    else chunk[0].error = error.message;
    return;
  }
  answer.results.forEach((result, index) => {
    if (result.error) chunk[index].error = result.error.detail;
    else chunk[index].result = result;
  });
}

/** Whether a refusal concerns what was sent; otherwise, every other request would meet it, too. */
const isAboutPictures = (error) => error instanceof Problem && [400, 413].includes(error.status);
