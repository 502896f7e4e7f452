// What the pickers list: the catalogue's rows as groups of choices, in words.

import { percent, plural } from "../shared/numbers.js";
import { versionWords } from "./loading.js";

const QUICK = 4; // forward passes per picture

/** Keep the options that contain every word of `query`. */
export function filtered(groups, query) {
  const words = query.toLowerCase().split(/\s+/);
  const fits = ({ name, tag, note, refused }) => {
    const text = [name, tag, note, refused].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  };
  return groups.map(({ title, options }) => ({ title, options: options.filter(fits) }));
}

/** Recommended layers, then all of them in forward order, grouped by the size of their grid. */
export function layerGroups({ layers, default: standard }) {
  const option = (layer) => layerOption(layer, standard);
  const stages = new Map();
  for (const layer of layers) {
    const [, height, width] = layer.shape;
    const title = layer.shape.length === 3 && height * width > 1 ? `${width} × ${height} cells` : "No grid of places";
    if (!stages.has(title)) stages.set(title, []);
    stages.get(title).push(option(layer));
  }
  const recommended = layers.filter((layer) => layer.recommended || layer.name === standard);
  return [
    { title: "Recommended", options: recommended.map(option) },
    ...[...stages].map(([title, options], index) => ({ title: `Stage ${index + 1}: ${title}`, options })),
  ];
}

function layerOption({ name, type, shape, explainable, recommended, note }, standard) {
  const tag = name === standard ? "default" : recommended ? "★ recommended" : "";
  const described = `${type}, ${shape[0]} channels`;
  const short = note?.split(/ \(|: |; /)[0]; // the whole of it is shown once it is chosen
  return {
    value: name, name, tag,
    note: [described, short].filter(Boolean).join(", "),
    refused: explainable ? undefined : note ?? "cannot be explained",
  };
}

/** Methods by what they cost; those that do not go with the model or with the question last, with the reason. */
export function methodGroups(methods, model, standard, { against = "", signed = false, fuse = "" } = {}) {
  const groups = { quick: [], slow: [], refused: [] };
  for (const method of methods) {
    const refused = refusal(method, model, { against, signed, fuse });
    const slow = method.forwards === null || method.forwards > QUICK;
    groups[refused ? "refused" : slow ? "slow" : "quick"].push({
      value: method.name, name: method.title, note: method.summary, refused,
      tag: method.name === standard ? "default" : slow ? costs(method) : "",
    });
  }
  return [
    { title: "Quick", options: groups.quick },
    { title: "Slow: these run the model many times", options: groups.slow },
    { title: "Not possible here", options: groups.refused },
  ];
}

const costs = ({ forwards }) => (forwards === null ? "seconds to minutes" : `≈ ${forwards} × the time`);

/** Why a method does not go with a model and with what else is asked, or nothing. */
export function refusal({ name, signed: hasSign, class_specific: knowsClasses, uses_layer: usesLayer }, model, asked) {
  const { against, signed, fuse } = asked;
  const reason = model?.refused_methods[name];
  if (reason) return reason;
  if (against && !knowsClasses) return "it knows no classes, so it cannot tell one from another";
  if (signed && !hasSign) return "its maps have no sign; switch “for and against” off";
  if (fuse && !usesLayer) return "it looks at the whole network, so there are no layers to fuse";
  return undefined;
}

export function modelGroups(models) {
  const options = models.map(({ name, architecture, input, classes, warnings, state, reason, default: standard }) => ({
    value: name, name, tag: state === "ready" ? (standard ? "default" : "") : versionWords(state),
    note: [
      architecture, classes && `${classes} classes`, input && `${input.width} × ${input.height} px`,
      warnings.length > 0 && plural(warnings.length, "warning"),
    ].filter(Boolean).join(" · "),
    refused: state === "failed" ? reason ?? "it could not be loaded" : undefined,
  }));
  return [{ title: "Models", options }];
}

/** The outputs of a model that can be explained. */
export function headGroups({ heads, default_head: standard }) {
  const options = Object.entries(heads).map(([name, classes]) => ({
    value: name, name, tag: name === standard ? "default" : "", note: plural(classes, "class", "classes"),
  }));
  return [{ title: "Outputs of the model", options }];
}

/** A class of an answer as the state names it: its index, or, behind those of a zero-shot model, its sentence. */
export const classNamed = (model, { index, label }) => (model?.prompts && index >= model.classes ? `text:${label}` : String(index));

/** Whether the state names a sentence: it is a class because the request names it, and of a request without it, none. */
export const isSentence = (named) => named.startsWith("text:");

/** The classes found for a query; without one, what was predicted comes first. Where classes are sentences, any other is one more. */
export function classGroups(model, { classes, total }, predictions, query) {
  const option = (one) => ({
    value: classNamed(model, one), name: one.label, tag: one.probability === undefined ? `class ${one.index}` : percent(one.probability),
  });
  const listed = query ? "Classes" : `All ${total} classes`;
  const more = classes.length < total && !query ? `, the first ${classes.length}: type to search` : "";
  return [
    { title: "Predicted", options: query ? [] : predictions.map(option) },
    { title: `${listed}${more}`, options: classes.map(option) },
    { title: "Any sentence", options: model?.prompts && query ? [sentence(query)] : [] },
  ];
}

const sentence = (query) => ({ value: `text:${query}`, name: `“${query}”`, note: "explained as one more class" });
