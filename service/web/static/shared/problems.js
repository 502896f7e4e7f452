// What goes wrong, in words: the server's own (problem+json, RFC 9457), or ours where there is no answer.

/**
 * `message` is meant for people, `code` for programs; `status` is that of the answer, 0 where there was none, and
 * `suggestions` are the closest to a name that is unknown.
 */
export class Problem extends Error {
  constructor(message, { code = "failed", status = 0, suggestions = [] } = {}) {
    super(message);
    Object.assign(this, { code, status, suggestions });
  }
}

/** The problem that a refusal states. */
export async function problemOf(response) {
  const { status, statusText } = response;
  const { detail, code, suggestions = [] } = await response.json().catch(() => ({}));
  const said = detail ?? `The server answered ${status} ${statusText}.`;
  return new Problem(said, { code: code ?? `http_${status}`, status, suggestions: suggestions ?? [] });
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

/** The words for a problem, with the closest known names where they do not stand in it already. */
export function problemWords(error) {
  const near = (error.suggestions ?? []).filter((name) => !error.message.includes(name));
  return near.length ? `${words(error)} Closest: ${near.join(", ")}.` : words(error);
}

/** The words for whatever was thrown: what a person gave up is no fault. */
export const words = (error) => (error.name === "AbortError" ? "Cancelled." : error.message);
