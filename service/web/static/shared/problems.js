// What goes wrong, in words: the server's own (problem+json, RFC 9457), or ours where there is no answer.

/** `message` is meant for people, `code` for programs; `status` is that of the answer, 0 where there was none. */
export class Problem extends Error {
  constructor(message, { code = "failed", status = 0 } = {}) {
    super(message);
    Object.assign(this, { code, status });
  }
}

/** The problem that a refusal states. */
export async function problemOf(response) {
  const { status, statusText } = response;
  const { detail, code } = await response.json().catch(() => ({}));
  return new Problem(detail ?? `The server answered ${status} ${statusText}.`, { code: code ?? `http_${status}`, status });
}

/** The problem of a picture that could not be explained, from its result in an answer. */
export const problemOfResult = ({ detail, code, status }) => new Problem(detail, { code, status });

/** The problem where nothing answers at `url`; browsers do not tell a dead server from one that forbids this page to ask. */
export function unreachable(url) {
  const { host, origin } = new URL(url, document.baseURI);
  const words = origin === location.origin
    ? "The server cannot be reached."
    : `${host || "The address"} cannot be reached, or does not allow this page to ask it.`;
  return new Problem(words, { code: "unreachable" });
}

/** The problem where an answer takes too long. */
export const late = (seconds) => new Problem(`The server has not answered for ${seconds} s.`, { code: "timeout" });

/** The words for whatever was thrown: what a person gave up is no fault. */
export const words = (error) => (error.name === "AbortError" ? "Cancelled." : error.message);
