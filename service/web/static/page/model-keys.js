// The keys of a model's configuration, as a person writes them: lines of TOML, or a JSON object.

import { Problem } from "../shared/problems.js";

const LINE = /^([A-Za-z_][\w-]*(?:\.[\w-]+)*)\s*=\s*(.*)$/;

/** The keys in `text`; a Problem says in which line there is none. */
export function parsed(text) {
  if (text.trim().startsWith("{")) return fromJson(text);
  const found = table();
  text.split("\n").forEach((line, index) => {
    const written = line.trim();
    if (written && !written.startsWith("#")) add(found, written, `Line ${index + 1} of the further keys`);
  });
  return found;
}

function fromJson(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Problem(`The further keys begin as a JSON object and are none: ${error.message}.`);
  }
}

/** Without a prototype: `constructor` is a key like any other. */
const table = () => Object.create(null);
const isTable = (value) => Object(value) === value && !Array.isArray(value);

function add(found, written, where) {
  const [, key, value] = LINE.exec(written) ?? [];
  if (!key || !value) throw new Problem(`${where} is not of the form key = value: ${written}`);
  const path = key.split(".");
  const last = path.pop();
  const inside = path.reduce((outer, name) => isTable(outer) && (outer[name] ??= table()), found);
  if (!isTable(inside) || Object.hasOwn(inside, last)) throw new Problem(`${where} gives ${key} once more.`);
  inside[last] = valueOf(value, where);
}

/** What JSON has is read as such, and 'text' as TOML does; anything else is text as it stands. A comment may follow. */
function valueOf(written, where) {
  const ends = [...written.matchAll(/\s*#/g)].map(({ index }) => index);
  const read = [written.length, ...ends.reverse()].map((end) => literal(written.slice(0, end))).find((value) => value !== undefined);
  if (read !== undefined) return read;
  if (/^["'[{]/.test(written)) throw new Problem(`${where} has a value that cannot be read: ${written}. ${hint(written)}`);
  return written.replace(/\s+#.*$/, "");
}

const hint = (written) => (written.startsWith("{") ? "Write tables as JSON." : "Text takes one pair of quotes, and a list stands in one line.");

/** What a value is in JSON, or between ' and '; nothing where it is neither. */
function literal(written) {
  const quoted = /^'([^']*)'$/.exec(written);
  if (quoted) return quoted[1];
  try {
    return JSON.parse(written);
  } catch {
    return undefined;
  }
}

/** A configuration of what the fields of the form hold, empty ones left out, and of further keys. */
export function configuration(fields, text) {
  const given = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== ""));
  const further = parsed(text);
  const twice = Object.keys(further).find((key) => Object.hasOwn(given, key));
  if (twice) throw new Problem(`${twice} stands in its own field and among the further keys: leave one of them out.`);
  return { ...given, ...further };
}
