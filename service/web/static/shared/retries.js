// Asking again: a server that is busy or loading says when.

const LATER = [429, 503];
const DEFAULT_WAIT_S = 2; // where Retry-After says nothing

/**
 * Call `send()` until its response is no “later”; resolves to that response.
 *
 * `nextWait({asked, tries, elapsed})` has the seconds that the server asks for, the number of answers and the seconds so
 * far; it returns the seconds to wait, or null to give up, in which case the refusal is the result. `waiting(response,
 * seconds)` is called before each wait.
 */
export async function retried(send, { nextWait, waiting, signal }) {
  const began = performance.now();
  for (let tries = 1; ; tries++) {
    const response = await send();
    if (!LATER.includes(response.status)) return response;
    const asked = Number(response.headers.get("Retry-After")) || DEFAULT_WAIT_S;
    const seconds = nextWait({ asked, tries, elapsed: (performance.now() - began) / 1000 });
    if (seconds === null) return response;
    await waiting(response.clone(), seconds);
    await pause(seconds * 1000, signal);
  }
}

/** Wait; rejects once `signal` is aborted. */
export function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
