// How far models and their versions are, in words.

const STAGES = {
  waiting: "waiting for its turn",
  "reading weights": "reading its weights",
  checking: "checking its answers",
  "measuring layers": "measuring its layers",
  warming: "trying its methods",
  "taking over": "taking over",
};

const MODELS = {
  ready: "Ready",
  loading: "Loading",
  unloaded: "Put out of memory: loaded again when it is asked",
  failed: "Failed",
};

const VERSIONS = {
  ready: "ready",
  loading: "being loaded",
  unloaded: "put out of memory",
  draining: "finishing what it began",
  failed: "failed",
};

/** What is being done to load a version. */
export const loadingWords = ({ stage }) => STAGES[stage] ?? "being loaded";

/** How a model is, whatever its versions are. */
export const modelWords = (state) => MODELS[state] ?? state;

/** How one of its versions is. */
export const versionWords = (state) => VERSIONS[state] ?? state;

/** The version of a model that is on its way, if there is one. */
export const arriving = ({ versions }) => versions.find(({ state }) => state === "loading");

/** The version that was to replace the one that answers, and could not be loaded. */
export const failedReplacement = ({ versions }) => versions.findLast(({ state, current }) => state === "failed" && !current);
