// A model's facts, in words.

/** [term, text] of what is known of a model. */
export function facts(model) {
  const { input, preprocessing: steps, device, precision, parameters, memory_bytes: memory } = model;
  const rows = [
    ["Architecture", model.architecture],
    ["Source", model.source],
    ["Version", model.version],
    ["Input", input && `${input.width} × ${input.height} px, ${model.channels === 1 ? "grey" : model.order}`],
    ["Preprocessing", steps && preprocessing(steps)],
    ["Classes", model.classes && `${classCount(model)}${model.multi_label ? ", not exclusive" : ""}`],
    ["Probabilities", PROBABILITIES[model.activation]],
    ["Default layer", model.default_layer],
    ["Parameters", parameters?.toLocaleString("en")],
    ["Memory", memory && `${bytes(memory)} with each worker`],
    ["Device", device],
    ["Precision", precision && settled(model)],
    ["Convolutions", precision && folding(model)],
    ["Batches", precision && division(model)],
  ];
  return rows.filter(([, text]) => text);
}

function settled({ precision, precision_reason: reason, precision_check: check }) {
  if (reason) return `${precision}. ${reason}`;
  if (!check) return precision;
  const maps = check.correlation === null ? "" : `maps correlate to ${check.correlation.toFixed(4)}, `;
  const apart = check.logits_apart.toLocaleString("en", { style: "percent", maximumSignificantDigits: 2 });
  return `${precision}; against float32, ${maps}logits differ by ${apart} at most`;
}

function folding({ folded, folded_reason: reason }) {
  if (folded) return "folded with what follows them";
  return reason ? `not folded. ${reason}` : "not folded";
}

function division({ parts, parts_reason: reason }) {
  if (parts > 1) return `in ${parts} parts, side by side`;
  return reason ? `as a whole. ${reason}` : "as a whole";
}

function bytes(number) {
  const [size, unit] = number >= 1e9 ? [1e9, "GB"] : number >= 1e6 ? [1e6, "MB"] : [1e3, "kB"];
  return `${(number / size).toLocaleString("en", { maximumSignificantDigits: 3 })} ${unit}`;
}

function classCount({ heads, classes }) {
  const each = Object.entries(heads).map(([name, count]) => `${name}: ${count}`);
  return each.length > 1 ? each.join(", ") : classes;
}

const PROBABILITIES = { softmax: "softmax of the logits", sigmoid: "sigmoid of each logit", none: "the outputs as they are" };

const FITS = {
  crop: ({ resize }) => `shorter side to ${resize} px, then the centre is cut out`,
  squash: () => "squeezed to the input's shape",
  pad: () => "fitted, the rest padded",
};

function preprocessing(steps) {
  const each = (numbers) => numbers.map((number) => Number(number.toFixed(3))).join(", ");
  const scale = Math.abs(steps.scale * 255 - 1) < 1e-9 ? "" : `pixels times ${Number(steps.scale.toPrecision(4))}; `;
  const decoded = steps.decoding === "reduced" ? "large JPEGs decoded at a part of their size; " : "";
  return `${decoded}${FITS[steps.mode](steps)} (${steps.interpolation}); ${scale}mean ${each(steps.mean)}; std ${each(steps.std)}`;
}
