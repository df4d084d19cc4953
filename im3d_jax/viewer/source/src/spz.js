// SPZ version 3 as `im3d` writes it: read once, and used for drawing and for the files that the page makes.

const COLOR_SCALE = 0.15;
const STEP = Math.SQRT1_2 / 511;

/** Bytes of a base64 text. */
export function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function gunzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/**
 * Decodes a file.
 *
 * Returns {count, degree, means, quats (xyzw), logScales, opacities (bytes), colors (bytes), rest (bytes, coefficient by
 * coefficient, each red, green, blue)}, in the file's frame: x right, y up, z towards the viewer.
 */
export async function decodeSpz(bytes) {
  const raw = await gunzip(bytes);
  const head = new DataView(raw.buffer);
  const count = head.getUint32(8, true);
  const degree = head.getUint8(12);
  if (head.getUint32(0, true) !== 0x5053474e || head.getUint32(4, true) !== 3 || degree > 3) {
    throw new Error("the page holds no SPZ file of version 3");
  }
  const unit = 2 ** -head.getUint8(13);
  let offset = 16;
  const take = (width) => raw.subarray(offset, (offset += count * width));
  const positions = take(9);
  const opacities = take(1);
  const colors = take(3);
  const scales = take(3);
  const rotations = take(4);
  const rest = take(3 * ((degree + 1) ** 2 - 1));
  const means = new Float32Array(count * 3);
  const quats = new Float32Array(count * 4);
  const logScales = new Float32Array(count * 3);
  for (let i = 0; i < count * 3; i++) {
    const at = i * 3;
    means[i] = (((positions[at] << 8) | (positions[at + 1] << 16) | (positions[at + 2] << 24)) >> 8) * unit;
    logScales[i] = scales[i] / 16 - 10;
  }
  for (let i = 0; i < count; i++) {
    const at = i * 4;
    let packed =
      (rotations[at] | (rotations[at + 1] << 8) | (rotations[at + 2] << 16) | (rotations[at + 3] << 24)) >>> 0;
    const largest = packed >>> 30;
    let squares = 0;
    for (let axis = 3; axis >= 0; axis--) {
      if (axis === largest) continue;
      const value = (packed & 511) * STEP * (packed & 512 ? -1 : 1);
      quats[at + axis] = value;
      squares += value * value;
      packed >>>= 10;
    }
    quats[at + largest] = Math.sqrt(Math.max(0, 1 - squares));
    const length = Math.hypot(quats[at], quats[at + 1], quats[at + 2], quats[at + 3]);
    for (let axis = 0; axis < 4; axis++) quats[at + axis] /= length;
  }
  return { count, degree, means, quats, logScales, opacities, colors, rest };
}

/** Coefficient of degree 0 of a colour byte. */
export const baseCoefficient = (byte) => (byte / 255 - 0.5) / COLOR_SCALE;
/** Coefficient of a higher degree of its byte. */
export const restCoefficient = (byte) => (byte - 128) / 128;
/** Logit of an opacity byte, finite. */
export function opacityLogit(byte) {
  const opacity = Math.min(Math.max(byte / 255, 0.25 / 255), 1 - 0.25 / 255);
  return Math.log(opacity / (1 - opacity));
}
