// Draws gaussians with three.js' WebGLRenderer: instanced quads in exact back-to-front order, summed in half floats.
//
// The projection, the low-pass of 0.3 square pixels, the limits of alpha (1/255 and 0.999) and the clamped slope of the
// Jacobian are those of the Python package `splat`, so that the page shows what `im3d` renders.
import * as THREE from "three";

const PER_ROW = 1024;
const C0 = 0.28209479177387814;

const VERTEX = `
precision highp float; precision highp int; precision highp usampler2D;
uniform mat4 viewMatrix, projectionMatrix;
uniform vec3 cameraPosition;
uniform vec2 size;
uniform usampler2D splats, harmonics;
in vec3 position;
in uint order;
out vec2 at;
out vec4 color;

#if DEGREE > 0
float coefficient(int index) {
  ivec2 place = ivec2(int(order % ${PER_ROW}u) * TEXELS + index / 16, int(order / ${PER_ROW}u));
  uvec4 words = texelFetch(harmonics, place, 0);
  uint word = words[(index / 4) % 4];
  return (float((word >> uint(8 * (index % 4))) & 255u) - 128.0) / 128.0;
}
vec3 rest(int index) {
  return vec3(coefficient(3 * index), coefficient(3 * index + 1), coefficient(3 * index + 2));
}
vec3 directed(vec3 d) {
  float x = d.x, y = d.y, z = d.z;
  vec3 sum = 0.4886025119029199 * (-y * rest(0) + z * rest(1) - x * rest(2));
  #if DEGREE > 1
  float xx = x * x, yy = y * y, zz = z * z;
  sum += 1.0925484305920792 * (x * y * rest(3) - y * z * rest(4) - x * z * rest(6))
    + 0.31539156525252005 * (2.0 * zz - xx - yy) * rest(5) + 0.5462742152960396 * (xx - yy) * rest(7);
  #endif
  #if DEGREE > 2
  sum += -0.5900435899266435 * (y * (3.0 * xx - yy) * rest(8) + x * (xx - 3.0 * yy) * rest(14))
    + 2.890611442640554 * x * y * z * rest(9)
    - 0.4570457994644658 * (4.0 * zz - xx - yy) * (y * rest(10) + x * rest(12))
    + 0.3731763325901154 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy) * rest(11)
    + 1.445305721320277 * z * (xx - yy) * rest(13);
  #endif
  return sum;
}
#endif

void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
  ivec2 place = ivec2(int(order % ${PER_ROW}u) * 3, int(order / ${PER_ROW}u));
  uvec4 first = texelFetch(splats, place, 0);
  vec4 second = uintBitsToFloat(texelFetch(splats, place + ivec2(1, 0), 0));
  vec4 third = uintBitsToFloat(texelFetch(splats, place + ivec2(2, 0), 0));
  vec3 mean = uintBitsToFloat(first.xyz);
  float opacity = float(first.w >> 24) / 255.0;
  if (opacity < 1.0 / 255.0) return;
  vec4 view = viewMatrix * vec4(mean, 1.0);
  float depth = -view.z;
  if (depth < NEAR) return;
  vec4 clip = projectionMatrix * view;

  // Slopes beyond 1.3 times the field of view would stretch gaussians at the border without limit.
  vec2 focal = 0.5 * size * vec2(projectionMatrix[0][0], projectionMatrix[1][1]);
  vec2 centre = vec2(-projectionMatrix[2][0], -projectionMatrix[2][1]);
  vec2 half_field = 1.0 / vec2(projectionMatrix[0][0], projectionMatrix[1][1]);
  vec2 slope = clamp(view.xy / depth, (-1.3 - centre) * half_field, (1.3 - centre) * half_field);
  mat3 turn = mat3(viewMatrix);
  vec3 row_x = (focal.x / depth) * (vec3(1.0, 0.0, slope.x) * turn);
  vec3 row_y = (focal.y / depth) * (vec3(0.0, 1.0, slope.y) * turn);
  mat3 covariance = mat3(
    second.x, second.y, second.z, second.y, second.w, third.x, second.z, third.x, third.y);
  vec3 along_x = covariance * row_x, along_y = covariance * row_y;
  float a = dot(row_x, along_x) + 0.3, b = dot(row_x, along_y), c = dot(row_y, along_y) + 0.3;
  float middle = 0.5 * (a + c), radius = length(vec2(0.5 * (a - c), b));
  float long_side = sqrt(middle + radius), short_side = sqrt(max(middle - radius, 0.01));
  vec2 axis = radius < 1e-6 * middle ? vec2(1.0, 0.0)
    : normalize(abs(b) > 1e-6 * middle ? vec2(b, middle + radius - a) : (a > c ? vec2(1.0, 0.0) : vec2(0.0, 1.0)));
  float reach = sqrt(2.0 * log(255.0 * opacity)) + 1e-3;
  at = position.xy * reach;
  vec2 offset = at.x * long_side * axis + at.y * short_side * vec2(-axis.y, axis.x);
  vec2 pixel = clip.xy / clip.w * size * 0.5;
  vec2 box = reach * sqrt(vec2(a, c));
  if (any(greaterThan(abs(pixel) - box, 0.5 * size))) return;
  gl_Position = vec4((pixel + offset) * 2.0 / size, 0.0, 1.0);

  vec3 base = (vec3(first.w & 255u, (first.w >> 8) & 255u, (first.w >> 16) & 255u) / 255.0 - 0.5) / 0.15;
  vec3 shade = 0.5 + ${C0} * base;
  #if DEGREE > 0
  shade += directed(normalize(mean - cameraPosition));
  #endif
  color = vec4(max(shade, 0.0), opacity);
}`;

const FRAGMENT = `
precision highp float;
in vec2 at;
in vec4 color;
out vec4 result;
void main() {
  float alpha = color.a * exp(-0.5 * dot(at, at));
  if (alpha < 1.0 / 255.0) discard;
  alpha = min(alpha, 0.999);
  result = vec4(color.rgb * alpha, alpha);
}`;

const COPY_VERTEX = `
in vec3 position;
void main() { gl_Position = vec4(position.xy, 0.0, 1.0); }`;

const COPY = `
precision highp float;
uniform sampler2D sum;
uniform vec4 ground;
out vec4 result;
void main() {
  vec4 premultiplied = texelFetch(sum, ivec2(gl_FragCoord.xy), 0);
  result = min(premultiplied + (1.0 - premultiplied.a) * vec4(ground.rgb * ground.a, ground.a), 1.0);
}`;

/** The gaussians' places, covariances and colours as textures. */
function textures(asset) {
  const { count, degree, means, quats, logScales, opacities, colors, rest } = asset;
  const rows = Math.ceil(count / PER_ROW);
  const words = new Uint32Array(rows * PER_ROW * 12);
  const floats = new Float32Array(words.buffer);
  const m = new Float64Array(9);
  for (let i = 0; i < count; i++) {
    const [at, j, k] = [i * 12, i * 3, i * 4];
    const x = quats[k], y = quats[k + 1], z = quats[k + 2], w = quats[k + 3];
    const sx = Math.exp(logScales[j]), sy = Math.exp(logScales[j + 1]), sz = Math.exp(logScales[j + 2]);
    // Rows of rotation times scale.
    m[0] = sx * (1 - 2 * (y * y + z * z)); m[1] = sy * 2 * (x * y - w * z); m[2] = sz * 2 * (x * z + w * y);
    m[3] = sx * 2 * (x * y + w * z); m[4] = sy * (1 - 2 * (x * x + z * z)); m[5] = sz * 2 * (y * z - w * x);
    m[6] = sx * 2 * (x * z - w * y); m[7] = sy * 2 * (y * z + w * x); m[8] = sz * (1 - 2 * (x * x + y * y));
    for (let axis = 0; axis < 3; axis++) floats[at + axis] = means[j + axis];
    words[at + 3] = (colors[j] | (colors[j + 1] << 8) | (colors[j + 2] << 16) | (opacities[i] << 24)) >>> 0;
    let entry = at + 4;
    for (let p = 0; p < 9; p += 3) {
      for (let q = p; q < 9; q += 3) floats[entry++] = m[p] * m[q] + m[p + 1] * m[q + 1] + m[p + 2] * m[q + 2];
    }
  }
  const texelsOfRest = Math.max(1, Math.ceil(rest.length / count / 16));
  const restBytes = new Uint8Array(degree > 0 ? rows * PER_ROW * texelsOfRest * 16 : 16);
  const width = rest.length / count;
  for (let i = 0; degree > 0 && i < count; i++) {
    restBytes.set(rest.subarray(i * width, (i + 1) * width), i * texelsOfRest * 16);
  }
  const texture = (data, across, down) => {
    const made = new THREE.DataTexture(data, across, down, THREE.RGBAIntegerFormat, THREE.UnsignedIntType);
    made.internalFormat = "RGBA32UI";
    made.needsUpdate = true;
    return made;
  };
  return {
    splats: texture(words, PER_ROW * 3, rows),
    harmonics: degree > 0
      ? texture(new Uint32Array(restBytes.buffer), PER_ROW * texelsOfRest, rows)
      : texture(new Uint32Array(4), 1, 1),
    texelsOfRest,
  };
}

/** Renders gaussians into a canvas. */
export class SplatRenderer {
  /** Throws an error where the browser has no WebGL 2. */
  constructor(canvas, asset) {
    THREE.ColorManagement.enabled = false;
    const context = canvas.getContext("webgl2", {
      alpha: true, antialias: false, depth: false, premultipliedAlpha: true, powerPreference: "high-performance",
    });
    if (!context) throw new Error("This browser has no WebGL 2");
    if (Math.ceil(asset.count / PER_ROW) > context.getParameter(context.MAX_TEXTURE_SIZE)) {
      throw new Error(`${asset.count} gaussians are too many for this graphics card`);
    }
    const halves = context.getExtension("EXT_color_buffer_float") || context.getExtension("EXT_color_buffer_half_float");
    this.renderer = new THREE.WebGLRenderer({ canvas, context, alpha: true, antialias: false, depth: false });
    this.renderer.outputColorSpace = THREE.LinearSRGBColorSpace;
    this.renderer.setClearColor(0x000000, 0);
    this.asset = asset;
    this.sum = new THREE.WebGLRenderTarget(1, 1, {
      type: halves ? THREE.HalfFloatType : THREE.UnsignedByteType, depthBuffer: false,
      minFilter: THREE.NearestFilter, magFilter: THREE.NearestFilter,
    });

    const { splats, harmonics, texelsOfRest } = textures(asset);
    const geometry = new THREE.InstancedBufferGeometry();
    geometry.setAttribute(
      "position", new THREE.BufferAttribute(new Float32Array([-1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 1, 0]), 3));
    geometry.setIndex([0, 1, 2, 0, 2, 3]);
    this.order = new THREE.InstancedBufferAttribute(new Uint32Array(asset.count), 1);
    this.order.gpuType = THREE.IntType;
    this.order.setUsage(THREE.DynamicDrawUsage);
    geometry.setAttribute("order", this.order);
    geometry.instanceCount = asset.count;
    const material = new THREE.RawShaderMaterial({
      glslVersion: THREE.GLSL3, vertexShader: VERTEX, fragmentShader: FRAGMENT,
      defines: { DEGREE: asset.degree, TEXELS: texelsOfRest, NEAR: "0.01" },
      uniforms: { size: { value: new THREE.Vector2() }, splats: { value: splats }, harmonics: { value: harmonics } },
      transparent: true, depthTest: false, depthWrite: false, side: THREE.DoubleSide,
      blending: THREE.CustomBlending, blendEquation: THREE.AddEquation,
      blendSrc: THREE.OneFactor, blendDst: THREE.OneMinusSrcAlphaFactor,
      blendSrcAlpha: THREE.OneFactor, blendDstAlpha: THREE.OneMinusSrcAlphaFactor,
    });
    const mesh = new THREE.Mesh(geometry, material);
    mesh.frustumCulled = false;
    this.material = material;
    this.scene = new THREE.Scene().add(mesh);
    this.copy = new THREE.RawShaderMaterial({
      glslVersion: THREE.GLSL3, vertexShader: COPY_VERTEX, fragmentShader: COPY,
      uniforms: { sum: { value: this.sum.texture }, ground: { value: new THREE.Vector4() } },
      depthTest: false, depthWrite: false, blending: THREE.NoBlending,
    });
    const triangle = new THREE.BufferGeometry();
    triangle.setAttribute("position", new THREE.BufferAttribute(new Float32Array([-1, -1, 0, 3, -1, 0, -1, 3, 0]), 3));
    const all = new THREE.Mesh(triangle, this.copy);
    all.frustumCulled = false;
    this.copyScene = new THREE.Scene().add(all);
    this.copyCamera = new THREE.Camera();

    this.depths = new Float32Array(asset.count);
    this.bins = new Uint16Array(asset.count);
    this.starts = new Uint32Array(65537);
    this.sortedFor = new THREE.Vector3();
  }

  /** Size of the drawing buffer in pixels. */
  resize(width, height) {
    this.renderer.setSize(width, height, false);
    this.sum.setSize(width, height);
  }

  /**
   * Draws one picture.
   *
   * camera: a three.js camera whose matrices are up to date; ground: [red, green, blue, alpha]; exact: whether to sort
   * anew even where the direction has hardly changed.
   */
  draw(camera, ground = [0, 0, 0, 0], exact = false) {
    this.sort(camera, exact);
    this.renderer.getDrawingBufferSize(this.material.uniforms.size.value);
    this.copy.uniforms.ground.value.fromArray(ground);
    this.renderer.setRenderTarget(this.sum);
    this.renderer.clear();
    this.renderer.render(this.scene, camera);
    this.renderer.setRenderTarget(null);
    this.renderer.render(this.copyScene, this.copyCamera);
  }

  /** Orders the gaussians from back to front by counting their depths in 65,536 steps. */
  sort(camera, exact) {
    const e = camera.matrixWorldInverse.elements;
    const [x, y, z] = [e[2], e[6], e[10]];
    const turned = x * this.sortedFor.x + y * this.sortedFor.y + z * this.sortedFor.z;
    if (!exact && turned > (this.asset.count > 200000 ? 0.999 : 0.99999)) return;
    this.sortedFor.set(x, y, z);
    const { means, count } = this.asset;
    const { depths, bins, starts } = this;
    let nearest = Infinity, farthest = -Infinity;
    for (let i = 0, j = 0; i < count; i++, j += 3) {
      const depth = x * means[j] + y * means[j + 1] + z * means[j + 2];
      depths[i] = depth;
      if (depth < nearest) nearest = depth;
      if (depth > farthest) farthest = depth;
    }
    const scale = 65535 / Math.max(farthest - nearest, 1e-9);
    starts.fill(0);
    for (let i = 0; i < count; i++) {
      bins[i] = (depths[i] - nearest) * scale;
      starts[bins[i] + 1]++;
    }
    for (let bin = 0; bin < 65536; bin++) starts[bin + 1] += starts[bin];
    const order = this.order.array;
    for (let i = 0; i < count; i++) order[starts[bins[i]]++] = i;
    this.order.needsUpdate = true;
  }
}
