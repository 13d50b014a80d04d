// Preparing a picture as torchvision and Pillow do: an antialiased filter as wide as the picture
// shrinks, first along rows, then along columns, rounded to whole numbers after each.

const FILTERS = {
  bilinear: { support: 1, weight: (x) => (Math.abs(x) < 1 ? 1 - Math.abs(x) : 0) },
  bicubic: { support: 2, weight: cubic },
};

/** Keys' cubic filter with a = -0.5, as Pillow and torch take it for antialiasing. */
function cubic(x) {
  const a = -0.5, d = Math.abs(x);
  if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
}

/** Which source pixels make each target pixel, and how much of each. */
function kernels(from, to, filter) {
  const scale = from / to, width = Math.max(scale, 1);
  const support = filter.support * width;
  return Array.from({ length: to }, (_, pixel) => {
    const center = (pixel + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const stop = Math.min(from, Math.trunc(center + support + 0.5));
    const weights = new Float64Array(stop - start);
    let sum = 0;
    for (let i = 0; i < weights.length; i++) {
      weights[i] = filter.weight((start + i - center + 0.5) / width);
      sum += weights[i];
    }
    for (let i = 0; i < weights.length; i++) weights[i] /= sum;
    return { start, weights };
  });
}

const toByte = (value) => Math.min(255, Math.max(0, Math.floor(value + 0.5)));

/**
 * Resize a picture.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} picture RGBA, as a canvas has it
 * @returns {{data: Uint8Array, width: number, height: number}} RGB
 */
export function resize(picture, width, height, resample = "bicubic") {
  const filter = FILTERS[resample];
  const rows = new Uint8Array(width * picture.height * 3);
  const across = kernels(picture.width, width, filter);
  for (let y = 0; y < picture.height; y++) {
    for (let x = 0; x < width; x++) {
      const { start, weights } = across[x];
      let r = 0, g = 0, b = 0, at = (y * picture.width + start) * 4;
      for (let i = 0; i < weights.length; i++, at += 4) {
        r += weights[i] * picture.data[at];
        g += weights[i] * picture.data[at + 1];
        b += weights[i] * picture.data[at + 2];
      }
      rows.set([toByte(r), toByte(g), toByte(b)], (y * width + x) * 3);
    }
  }
  const data = new Uint8Array(width * height * 3), stride = width * 3;
  const down = kernels(picture.height, height, filter);
  for (let y = 0; y < height; y++) {
    const { start, weights } = down[y];
    for (let x = 0; x < stride; x++) {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * rows[(start + i) * stride + x];
      data[y * stride + x] = toByte(sum);
    }
  }
  return { data, width, height };
}

/** The size that a picture gets before it is cropped. */
function resizedSize(width, height, prepare) {
  if (!prepare.shortest_edge) return [prepare.width, prepare.height];
  const edge = prepare.shortest_edge;
  return width <= height
    ? [edge, Math.trunc((edge * height) / width)]
    : [Math.trunc((edge * width) / height), edge];
}

/** The part of a picture that the model sees, as shares of its width and height. */
export function visiblePart(width, height, prepare) {
  if (!prepare.crop) return { left: 0, top: 0, width: 1, height: 1 };
  const [w, h] = resizedSize(width, height, prepare);
  const shareX = Math.min(1, prepare.crop / w), shareY = Math.min(1, prepare.crop / h);
  return { left: (1 - shareX) / 2, top: (1 - shareY) / 2, width: shareX, height: shareY };
}

/** Python's rounding: halves go to the even number. */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

/**
 * The input of the image tower: resized, cropped around the middle, normalised.
 *
 * @param picture RGBA, as a canvas has it
 * @param prepare the model's preparation, from site.json
 * @returns {Float32Array} of shape (3, size, size)
 */
export function pixelValues(picture, prepare) {
  const [width, height] = resizedSize(picture.width, picture.height, prepare);
  const { data } = resize(picture, width, height, prepare.resample);
  const size = prepare.image_size;
  const left = roundHalfEven((width - size) / 2), top = roundHalfEven((height - size) / 2);
  const values = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++) {
    const mean = prepare.mean[channel], std = prepare.std[channel];
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        // Outside a picture that is smaller than the crop, torchvision pads with black.
        const isInside = y + top >= 0 && y + top < height && x + left >= 0 && x + left < width;
        const byte = isInside ? data[((y + top) * width + x + left) * 3 + channel] : 0;
        values[(channel * size + y) * size + x] = (byte * prepare.rescale - mean) / std;
      }
    }
  }
  return values;
}
