// The files that the page makes from its SPZ file: PLY in the asset's own world, and binary glTF, y up.
import { baseCoefficient, opacityLogit, restCoefficient } from "./spz.js";

const C0 = 0.28209479177387814;

/** A matrix times the numbers of `source` from `at` on. */
function turned(source, at, matrix) {
  return matrix.map((row) => row.reduce((sum, factor, index) => sum + factor * source[at + index], 0));
}

/** Quaternion product, xyzw. */
function product([ax, ay, az, aw], [bx, by, bz, bw]) {
  return [
    aw * bx + ax * bw + ay * bz - az * by,
    aw * by - ax * bz + ay * bw + az * bx,
    aw * bz + ax * by - ay * bx + az * bw,
    aw * bw - ax * bx - ay * by - az * bz,
  ];
}

/** Linear colour, as glTF's points have it, of an sRGB colour. */
const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);

/**
 * A PLY file of the 62 properties that every viewer reads.
 *
 * world: {rotation: 3x3, quaternion: xyzw, bands: matrices of the harmonics' degrees 1 to 3} from the page's frame to the
 * asset's own world.
 */
export function makePly(asset, world) {
  const { count, degree, means, quats, logScales, opacities, colors, rest } = asset;
  const functions = (degree + 1) ** 2 - 1;
  const names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"];
  for (let index = 0; index < 45; index++) names.push(`f_rest_${index}`);
  names.push("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3");
  const header = new TextEncoder().encode(
    ["ply", "format binary_little_endian 1.0", `element vertex ${count}`,
      ...names.map((name) => `property float ${name}`), "end_header", ""].join("\n"));
  const rows = new DataView(new ArrayBuffer(count * names.length * 4));
  const coefficients = new Float64Array(functions);
  let at = 0;
  const put = (value) => { rows.setFloat32(at, value, true); at += 4; };
  for (let i = 0; i < count; i++) {
    turned(means, i * 3, world.rotation).forEach(put);
    for (let j = 0; j < 3; j++) put(0);
    for (let j = 0; j < 3; j++) put(baseCoefficient(colors[i * 3 + j]));
    // The file groups coefficients by colour and has room for degree 3.
    for (let color = 0; color < 3; color++) {
      for (let j = 0; j < functions; j++) coefficients[j] = restCoefficient(rest[(i * functions + j) * 3 + color]);
      for (let band = 1; band <= degree; band++) turned(coefficients, band * band - 1, world.bands[band - 1]).forEach(put);
      for (let j = functions; j < 15; j++) put(0);
    }
    put(opacityLogit(opacities[i]));
    for (let j = 0; j < 3; j++) put(logScales[i * 3 + j]);
    const [x, y, z, w] = product(world.quaternion, quats.subarray(i * 4, i * 4 + 4));
    [w, x, y, z].forEach(put);
  }
  return new Blob([header, rows.buffer], { type: "application/octet-stream" });
}

/** A binary glTF file with KHR_gaussian_splatting. */
export function makeGlb(asset) {
  const { count, degree, means, quats, logScales, opacities, colors, rest } = asset;
  const prefix = "KHR_gaussian_splatting:";
  const functions = (degree + 1) ** 2 - 1;
  const base = new Float32Array(count * 3);
  const points = new Uint8Array(count * 4);
  for (let i = 0; i < count * 3; i++) {
    base[i] = baseCoefficient(colors[i]);
    points[i + Math.floor(i / 3)] = Math.round(255 * linear(Math.min(Math.max(0.5 + C0 * base[i], 0), 1)));
  }
  for (let i = 0; i < count; i++) points[4 * i + 3] = opacities[i];
  const attributes = {
    POSITION: means,
    COLOR_0: points,
    [`${prefix}ROTATION`]: quats,
    [`${prefix}SCALE`]: logScales.map(Math.exp),
    [`${prefix}OPACITY`]: Float32Array.from(opacities, (byte) => byte / 255),
    [`${prefix}SH_DEGREE_0_COEF_0`]: base,
  };
  for (let band = 1; band <= degree; band++) {
    for (let index = 0; index <= 2 * band; index++) {
      const values = new Float32Array(count * 3);
      const place = band * band - 1 + index;
      for (let i = 0; i < count; i++) {
        for (let color = 0; color < 3; color++) {
          values[i * 3 + color] = restCoefficient(rest[(i * functions + place) * 3 + color]);
        }
      }
      attributes[`${prefix}SH_DEGREE_${band}_COEF_${index}`] = values;
    }
  }
  const views = [], accessors = [], parts = [];
  let size = 0;
  for (const values of Object.values(attributes)) {
    const width = values.length / count;
    const bytes = values instanceof Uint8Array;
    views.push({ buffer: 0, byteOffset: size, byteLength: values.byteLength, target: 34962 });
    accessors.push({
      bufferView: accessors.length, componentType: bytes ? 5121 : 5126, normalized: bytes, count,
      type: { 1: "SCALAR", 3: "VEC3", 4: "VEC4" }[width],
    });
    const pad = (4 - (values.byteLength % 4)) % 4;
    parts.push(values, new Uint8Array(pad));
    size += values.byteLength + pad;
  }
  const limits = [[Infinity, Infinity, Infinity], [-Infinity, -Infinity, -Infinity]];
  for (let i = 0; i < means.length; i++) {
    limits[0][i % 3] = Math.min(limits[0][i % 3], means[i]);
    limits[1][i % 3] = Math.max(limits[1][i % 3], means[i]);
  }
  Object.assign(accessors[0], { min: limits[0], max: limits[1] });
  const document = {
    asset: { version: "2.0", generator: "im3d_jax viewer" },
    extensionsUsed: ["KHR_gaussian_splatting"],
    scene: 0,
    scenes: [{ nodes: [0] }],
    nodes: [{ mesh: 0 }],
    meshes: [{
      primitives: [{
        mode: 0,
        attributes: Object.fromEntries(Object.keys(attributes).map((name, index) => [name, index])),
        extensions: { KHR_gaussian_splatting: { kernel: "ellipse", colorSpace: "srgb_rec709_display" } },
      }],
    }],
    buffers: [{ byteLength: size }],
    bufferViews: views,
    accessors,
  };
  const text = JSON.stringify(document);
  const json = new TextEncoder().encode(text + " ".repeat((4 - (text.length % 4)) % 4));
  const word = (...values) => new Uint8Array(new Uint32Array(values).buffer);
  const head = word(0x46546c67, 2, 28 + json.length + size);
  return new Blob([head, word(json.length, 0x4e4f534a), json, word(size, 0x004e4942), ...parts],
    { type: "model/gltf-binary" });
}
