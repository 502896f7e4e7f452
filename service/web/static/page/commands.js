// What is on screen as a command to copy. Keys are named, never written out.

const KEY = "CAMSERVE_API_KEY";
const NUMBERS = new Set(["target", "against", "smooth", "alpha", "threshold", "top_k", "max_side"]);

/** Quote for a POSIX shell. */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * `asked` is {base, model, options: [[name, value]], picture: {name, sample}, key}: what the answer on screen was asked
 * with. A sample is fetched from the server, another picture is expected in the working directory.
 */
export function curl({ base, model, options, picture, key }) {
  const url = (path) => quoted(new URL(path, base).href);
  const header = key ? `  -H "Authorization: Bearer $${KEY}"` : null;
  // curl itself reads , and ; in a file's name, unless the name is in double quotes
  const file = /[,;"\\]/.test(picture.name) ? `"${picture.name.replaceAll(/["\\]/g, "\\$&")}"` : picture.name;
  const image = picture.sample ? `image=@-;filename=${picture.sample}` : `image=@${file}`;
  const command = [
    `curl ${url(`api/v1/models/${encodeURIComponent(model)}/explain`)}`,
    header,
    `  -F ${quoted(image)}`,
    ...options.map(([name, value]) => `  -F ${quoted(`${name}=${value}`)}`),
  ].filter(Boolean).join(" \\\n");
  return picture.sample ? `curl -s ${url(samplePath(picture))} |\n${command}` : command;
}

const samplePath = ({ sample }) => `static/samples/${encodeURIComponent(sample)}`;

/** The same with the Python client. */
export function python({ base, model, options, picture, key }) {
  const address = new URL(samplePath(picture), base).href;
  return [
    ...(key ? ["import os", ""] : []),
    ...(picture.sample ? ["import httpx"] : []),
    "from service.client import Client",
    "",
    picture.sample ? `picture = httpx.get(${JSON.stringify(address)}).content` : `picture = ${JSON.stringify(picture.name)}`,
    `with Client(${JSON.stringify(base.replace(/\/$/, ""))}${key ? `, api_key=os.environ["${KEY}"]` : ""}) as client:`,
    "    explained = client.explain(",
    "        picture,",
    `        model=${JSON.stringify(model)},`,
    ...gathered(options).map(([name, value]) => `        ${name}=${value},`),
    "    )",
    "for number, explanation in enumerate(explained.explanations):",
    "    print(explanation.layer, explanation.method, explanation.label, explanation.maximum)",
    '    explanation.overlay().save(f"overlay-{number}.png")',
    "",
  ].join("\n");
}

/** Repeated options as Python lists. */
function gathered(options) {
  const found = new Map();
  for (const [name, value] of options) found.set(name, [...(found.get(name) ?? []), literal(name, value)]);
  return [...found].map(([name, values]) => [name, values.length > 1 ? `[${values.join(", ")}]` : values[0]]);
}

function literal(name, value) {
  if (value === true || value === "true") return "True";
  return NUMBERS.has(name) && /^[\d.]+$/.test(value) ? String(value) : JSON.stringify(String(value));
}
