// The gallery's results as records and as a CSV table (RFC 4180).

/** One picture's result, flat. */
export function record({ picture, expected, result, error }) {
  const [best] = result?.predictions ?? [];
  const [explanation] = result?.explanations ?? [];
  return {
    file: picture.path,
    expected: expected?.label ?? null,
    expected_from: expected?.from ?? null,
    predicted: best?.label ?? null,
    index: best?.index ?? null,
    probability: best?.probability ?? null,
    entropy: result?.scores?.entropy ?? null,
    margin: result?.scores?.margin ?? null,
    as_expected: best && expected ? best.label === expected.label : null,
    layer: explanation?.layer ?? null,
    method: explanation?.method ?? null,
    empty: explanation?.empty ?? null,
    peak_x: explanation?.peak?.x ?? null,
    peak_y: explanation?.peak?.y ?? null,
    error: error ?? null,
  };
}

/** A line of names, then a line for each item. */
export function csv(items) {
  const records = items.map(record);
  const names = Object.keys(record({ picture: {} }));
  return [names, ...records.map((row) => Object.values(row))].map((row) => `${row.map(field).join(",")}\r\n`).join("");
}

function field(value) {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
