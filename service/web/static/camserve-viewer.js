// <camserve-viewer>: a picture, and where a model looked. This is the file to load; it imports its parts from beside it.
//
// On a page that talks to the API itself: set `picture` (Blob or URL), `explained` ({image, view, explanation} as in an
// answer with output=mask) and `palette` (`table` of GET /api/v1/colormaps; a diverging one for a signed map).
// On any other page: set the attribute `src`, or call `explain(blob)`, and it asks the server that this file came from, or
// `server`, with the attributes model, head, layer, target, against, method, colormap, signed. `key` is a property only: what
// stands in a page's source is no secret.
// How it is drawn: mode, opacity, threshold, regions; properties and attributes. Every one of them acts without a request.
// Events: camserve-hover {x, y, share, value, seen}, camserve-explained {answer, result, explanation},
// camserve-error {code, message}. `toBlob()` resolves to the present view as PNG, at the picture's own resolution.
// Theming: it takes its host's text colour and font; parts: stage, scale, readout, legend, caption, problem; and the
// custom properties --camserve-max-height and --camserve-accent.

import { CamserveViewer } from "./viewer/element.js";

export { CamserveViewer };

customElements.define("camserve-viewer", CamserveViewer);
