// The pictures and maps in answers: base64 of bytes.

/** The bytes of a base64 text. */
export function bytes(text) {
  const decoded = atob(text);
  const found = new Uint8Array(decoded.length); // filled by a plain loop: with `from` it takes longer than all the rest
  for (let index = 0; index < found.length; index++) found[index] = decoded.charCodeAt(index);
  return found;
}

/** A picture of an answer as a `Blob`. */
export const blob = ({ media_type, data }) => new Blob([bytes(data)], { type: media_type });

/** A picture of an answer as an address for `<img>`. */
export const dataUrl = ({ media_type, data }) => `data:${media_type};base64,${data}`;
