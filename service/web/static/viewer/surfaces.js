// Canvases, and pictures that can be drawn on them.

export const canvas = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

/** A picture, a `Blob` or its address, as something that can be drawn, upright. */
export async function bitmapOf(picture) {
  if (picture instanceof Blob) return createImageBitmap(picture);
  // An <img>, not a request: content security policies that show a picture's address often forbid to fetch it.
  const element = Object.assign(new Image(), { crossOrigin: "anonymous", src: picture });
  await element.decode();
  return createImageBitmap(element);
}

/** Reduces a picture to the size of a panel and keeps it: reducing a large one takes longer than a frame. */
export class Reduced {
  #picture = null;
  #surface = canvas(0, 0);

  of(picture, width, height) {
    if (picture === this.#picture && this.#surface.width === width && this.#surface.height === height) return this.#surface;
    this.#picture = picture;
    this.#surface = canvas(width, height);
    const context = this.#surface.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, width, height);
    return this.#surface;
  }
}

/** A canvas as a PNG file; null where the browser cannot make one that large. */
export const png = (surface) => new Promise((resolve) => surface.toBlob(resolve, "image/png"));
