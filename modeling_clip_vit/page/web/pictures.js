// Reading the pixels of pictures: the visitor's own, and thumbnails.

import { t } from "./strings.js";

const MOST_BYTES = 64e6;
const MOST_PIXELS = 100e6;

/**
 * The pixels of a picture, upright by its EXIF tag, transparent parts on white.
 *
 * @param {Blob} blob
 * @param {string} name what to call it in an error
 * @returns {Promise<{data: Uint8ClampedArray, width: number, height: number}>} RGBA
 */
export async function readPixels(blob, name) {
  if (blob.size > MOST_BYTES) throw new Error(t("tooLarge", name, MOST_BYTES / 1e6));
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(t("unreadable", name));
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    bitmap.close();
    throw new Error(t("tooManyPixels", name));
  }
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { data: context.getImageData(0, 0, width, height).data, width, height };
}

/** The pixels of a picture at an address of this site. */
export async function readPixelsFrom(address, name) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  return readPixels(await response.blob(), name);
}
