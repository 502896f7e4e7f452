// What is on screen as a command to copy. Keys are named, never written out.

import { REQUEST } from "../shared/request.js";

const KEY = "CAM_API_KEY";
const NUMBERS = Object.keys(REQUEST).filter((name) => ["number", "class"].includes(REQUEST[name].kind));

// Each command is made of {base, model, options: [[name, value]], pictures: [{name, sample}], key}: what the answer on
// screen was asked with. Samples are fetched from the server, other pictures are expected in the working directory.

const samplesAt = (base) => new URL("static/samples/", base).href;

/** Quote for a POSIX shell. */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** A file's name as it stands between double quotes in an option of curl's, which reads , and ; outside of them. */
const escaped = (name) => name.replaceAll(/["\\]/g, "\\$&");

/** For a shell: one request for each picture. */
export function curl(asked) {
  const { base, pictures } = asked;
  if (pictures.length === 1) {
    const [{ name, sample }] = pictures;
    if (sample) return `curl -s ${quoted(`${samplesAt(base)}${encodeURIComponent(sample)}`)} |\n${post(asked, quoted(`image=@-;filename=${sample}`))}`;
    return post(asked, quoted(`image=@${/[,;"\\]/.test(name) ? `"${escaped(name)}"` : name}`));
  }
  const names = pictures.map(({ name, sample }) => quoted(sample || escaped(name))).join(" ");
  const body = pictures[0].sample
    ? `curl -s ${quoted(samplesAt(base))}"$name" |\n${post(asked, '"image=@-;filename=$name"')}`
    : post(asked, '"image=@\\"$name\\""');
  return `for name in ${names}; do\n${body}\necho\ndone`;
}

function post({ base, model, options, key }, image) {
  return [
    `curl -s ${quoted(new URL(`api/v1/models/${encodeURIComponent(model)}/explain`, base).href)}`,
    ...(key ? [`  -H "Authorization: Bearer $${KEY}"`] : []),
    `  -F ${image}`,
    ...options.map(([name, value]) => `  ${/^[@<"]|;/.test(value) ? "--form-string" : "-F"} ${quoted(`${name}=${value}`)}`), // -F reads these
  ].join(" \\\n");
}

/** For Python, with the client. */
export function python({ base, model, options, pictures, key }) {
  const sampled = Boolean(pictures[0].sample);
  const names = pictures.map(({ name }) => JSON.stringify(name));
  const image = sampled ? `httpx.get(${JSON.stringify(samplesAt(base))} + name).content` : "name";
  return [
    ...(key ? ["import os", ""] : []),
    ...(sampled ? ["import httpx"] : []),
    "from service.client import Client",
    "",
    `names = [${names.join(", ")}]`,
    `with Client(${JSON.stringify(base.replace(/\/$/, ""))}${key ? `, api_key=os.environ["${KEY}"]` : ""}) as client:`,
    "    for name in names:",
    "        explained = client.explain(",
    `            ${image},`,
    `            model=${JSON.stringify(model)},`,
    ...gathered(options).map(([option, values]) => `            ${option}=${values},`),
    "        )",
    "        print(name, explained.predictions[0].label, explained.predictions[0].probability)",
    "        for number, explanation in enumerate(explained.explanations):",
    "            print(explanation.layer, explanation.method, explanation.label, explanation.maximum)",
    '            explanation.overlay().save(f"{name.split(\'/\')[-1]}-{number}.png")',
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
  return NUMBERS.includes(name) && /^[\d.]+$/.test(value) ? String(value) : JSON.stringify(String(value));
}
