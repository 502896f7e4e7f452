// The keys of a model's configuration, as a person writes them: lines of TOML, or a JSON object.

import { Problem } from "../shared/problems.js";

const LINE = /^([A-Za-z_][\w-]*(?:\.[\w-]+)*)\s*=\s*(.*)$/;

/** The keys in `text`; a Problem says in which line there is none. */
export function parsed(text) {
  if (text.trim().startsWith("{")) return fromJson(text);
  const found = {};
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

function add(found, written, where) {
  const [, key, value] = LINE.exec(written) ?? [];
  if (!key || !value) throw new Problem(`${where} is not of the form key = value: ${written}`);
  const path = key.split(".");
  const last = path.pop();
  const table = path.reduce((inside, name) => (inside[name] ??= {}), found);
  if (typeof table !== "object" || Object.hasOwn(table, last)) throw new Problem(`${where} gives ${key} once more.`);
  table[last] = valueOf(value, where);
}

/** What JSON has is read as such, and 'text' as TOML does; anything else is text as it stands. */
function valueOf(written, where) {
  const literal = /^'([^']*)'$/.exec(written);
  if (literal) return literal[1];
  try {
    return JSON.parse(written);
  } catch {
    if (/^["'[{]/.test(written)) throw new Problem(`${where} has a value that cannot be read: ${written}. Write tables as JSON.`);
    return written;
  }
}

/** A configuration of what the fields of the form hold, empty ones left out, and of further keys. */
export function configuration(fields, text) {
  const given = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== ""));
  const further = parsed(text);
  const twice = Object.keys(further).find((key) => key in given);
  if (twice) throw new Problem(`${twice} stands in its own field and among the further keys: leave one of them out.`);
  return { ...given, ...further };
}
