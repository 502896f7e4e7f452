// A raw map as a file that numpy.load reads: NPY format 1.0.

import { bytes } from "../shared/base64.js";

const ALIGNED = 64; // where the data begins

/** The bytes of a `.npy` file for an array as the API sends it: {dtype: "float32", shape, data} in base64. */
export function npy({ shape, data }) {
  const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${sizes}), }`;
  const before = 10; // magic, version and the header's length
  const padding = (ALIGNED - ((before + text.length + 1) % ALIGNED)) % ALIGNED;
  const header = `${text}${" ".repeat(padding)}\n`;
  const values = bytes(data);
  const file = new Uint8Array(before + header.length + values.length);
  file.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0]); // \x93NUMPY, version 1.0
  new DataView(file.buffer).setUint16(8, header.length, true);
  file.set(new TextEncoder().encode(header), before);
  file.set(values, before + header.length);
  return file;
}
