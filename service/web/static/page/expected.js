// Which class a picture was meant to show, read from its folder or its name.

/** Lower case, one space between words, no apostrophes: `Jack-O-Lantern` and `jack-o'-lantern` are the same label. */
const plain = (text) => text.toLowerCase().replaceAll(/['’]/g, "").replaceAll(/[\s_.-]+/g, " ").trim();

/** A reader for a model's classes, [{index, label}]: maps a path to {index, label, from} or null. */
export function reader(classes) {
  const known = new Map();
  for (const { index, label } of classes) {
    for (const name of [label, ...label.split(",")]) if (!known.has(plain(name))) known.set(plain(name), { index, label });
  }
  return (path) => fromFolder(path, known) ?? fromName(path, known);
}

function fromFolder(path, known) {
  const found = known.get(plain(path.split("/").at(-2) ?? ""));
  return found ? { ...found, from: "folder" } : null;
}

/** The longest run of words at the end or the start of the name that is a label: `03-star.png`, `star_12.jpg`. */
function fromName(path, known) {
  const words = plain(path.split("/").at(-1).replace(/\.\w+$/, "")).split(" ").filter((word) => !/^\d+$/.test(word));
  for (let length = words.length; length > 0; length--) {
    const found = known.get(words.slice(-length).join(" ")) ?? known.get(words.slice(0, length).join(" "));
    if (found) return { ...found, from: "name" };
  }
  return null;
}

/** Say how the expected classes were read. */
export function howRead(expectations) {
  const count = (from) => expectations.filter((found) => found?.from === from).length;
  const parts = [
    count("folder") && `from the folder's name for ${count("folder")}`,
    count("name") && `from the file's name for ${count("name")}`,
  ].filter(Boolean);
  const unknown = expectations.filter((found) => !found).length;
  if (!parts.length) {
    return "No folder or file name is a label of this model, so nothing is known about what was expected. " +
      "Put pictures into folders named like their class, or name them like star_12.jpg.";
  }
  return `The expected class was read ${parts.join(" and ")}${unknown ? `; it is unknown for ${unknown}` : ""}.`;
}
