// The page: reads what it shows from the element #asset, and offers window.im3d (see README.md beside src).
import * as THREE from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { makeGlb, makePly } from "./files.js";
import { bytesOf, decodeSpz } from "./spz.js";
import { SplatRenderer } from "./splats.js";
import { buildViews } from "./views.js";

const TURN_SECONDS = 40;
const FLIGHT_SECONDS = 0.7;

const page = JSON.parse(document.getElementById("asset").textContent);
const find = (id) => document.getElementById(id);
const stage = find("stage");
const canvas = find("canvas");
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

/** A camera of the page's JSON as a three.js camera for a picture of some size. */
function cameraOf({ matrix, fx, fy, cx, cy, width, height }) {
  const camera = new THREE.PerspectiveCamera();
  camera.matrixAutoUpdate = false;
  camera.matrix.set(...matrix);
  camera.updateMatrixWorld(true);
  const near = 0.01, far = 1000;
  camera.projectionMatrix.set(
    (2 * fx) / width, 0, 1 - (2 * cx) / width, 0,
    0, (2 * fy) / height, (2 * cy) / height - 1, 0,
    0, 0, -(far + near) / (far - near), (-2 * far * near) / (far - near),
    0, 0, -1, 0);
  camera.projectionMatrixInverse.copy(camera.projectionMatrix).invert();
  return camera;
}

/** The turning object, and everything that moves its camera. */
class Stage {
  constructor(asset) {
    this.splats = new SplatRenderer(canvas, asset);
    this.camera = new THREE.PerspectiveCamera(30, 1, 0.01, 1000);
    this.controls = new OrbitControls(this.camera, canvas);
    this.controls.enableDamping = !calm;
    this.controls.dampingFactor = 0.08;
    this.controls.zoomSpeed = 0.8;
    this.controls.minDistance = page.home.distance * 0.15;
    this.controls.maxDistance = page.home.distance * 4;
    this.controls.autoRotateSpeed = 60 / TURN_SECONDS;
    this.controls.addEventListener("start", () => { this.flight = null; });
    this.held = null;
    this.needed = true;
    this.home(false);
    new ResizeObserver(() => this.resize()).observe(stage);
    this.resize();
    this.turning = !calm;
    this.before = performance.now();
    requestAnimationFrame((now) => this.frame(now));
  }

  get turning() { return this.controls.autoRotate; }
  set turning(value) {
    this.controls.autoRotate = value;
    find("turn").setAttribute("aria-pressed", String(value));
    find("turn").title = find("turn").ariaLabel = value ? "Stop turning (space)" : "Turn (space)";
  }

  resize() {
    const { width, height } = stage.getBoundingClientRect();
    if (!width || !height) return;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.splats.resize(Math.round(width * ratio), Math.round(height * ratio));
    const aspect = width / height;
    // The field of view of the views fits the shorter side.
    const half = Math.tan((page.home.fovDegrees * Math.PI) / 360) / Math.min(aspect, 1);
    this.camera.fov = (Math.atan(half) * 360) / Math.PI;
    this.camera.aspect = aspect;
    this.camera.updateProjectionMatrix();
    this.held = null;
    this.needed = true;
  }

  home(fly = true) { this.moveTo(page.home.position, fly); }

  /** Moves the camera to a place, looking at the middle of the object. */
  moveTo(position, fly = true) {
    this.held = null;
    const target = new THREE.Vector3(...page.home.target);
    const goal = new THREE.Spherical().setFromVector3(new THREE.Vector3(...position).sub(target)).makeSafe();
    if (!fly || calm) {
      this.place(goal, target);
      return;
    }
    const start = new THREE.Spherical().setFromVector3(this.camera.position.clone().sub(this.controls.target));
    goal.theta += Math.round((start.theta - goal.theta) / (2 * Math.PI)) * 2 * Math.PI;
    this.flight = { start, goal, from: this.controls.target.clone(), to: target, seconds: 0 };
  }

  place(spherical, target) {
    this.controls.target.copy(target);
    this.camera.position.setFromSpherical(spherical).add(target);
    this.controls.update();
    this.needed = true;
  }

  frame(now) {
    requestAnimationFrame((next) => this.frame(next));
    const seconds = Math.min((now - this.before) / 1000, 0.1);
    this.before = now;
    if (this.held) return;
    if (this.flight) {
      const { start, goal, from, to } = this.flight;
      this.flight.seconds += seconds;
      const t = Math.min(this.flight.seconds / FLIGHT_SECONDS, 1);
      const eased = t * t * (3 - 2 * t);
      const mix = THREE.MathUtils.lerp;
      this.place(
        new THREE.Spherical(mix(start.radius, goal.radius, eased), mix(start.phi, goal.phi, eased),
          mix(start.theta, goal.theta, eased)),
        from.clone().lerp(to, eased));
      if (t === 1) this.flight = null;
    } else if (this.controls.update(seconds)) {
      this.needed = true;
    }
    if (!this.needed) return;
    this.needed = false;
    this.camera.updateMatrixWorld();
    this.splats.draw(this.camera);
    this.moved?.(this.camera.position);
  }

  /** Turns by angles (radians) or zooms by a factor, as the keys do. */
  nudge(theta, phi, zoom = 1) {
    this.flight = null;
    const target = this.controls.target.clone();
    const spherical = new THREE.Spherical().setFromVector3(this.camera.position.clone().sub(target));
    spherical.theta += theta;
    spherical.phi = Math.min(Math.max(spherical.phi + phi, 0.02), Math.PI - 0.02);
    spherical.radius =
      Math.min(Math.max(spherical.radius * zoom, this.controls.minDistance), this.controls.maxDistance);
    this.place(spherical, target);
  }

  /** Shows the picture of a given camera until something else moves it. */
  hold(camera, ground) {
    this.turning = false;
    this.flight = null;
    this.held = camera;
    this.splats.resize(camera.width, camera.height);
    this.splats.draw(cameraOf(camera), ground, true);
  }

  picture(camera, ground) {
    const before = this.turning;
    this.hold(camera, ground);
    const url = canvas.toDataURL("image/png");
    this.turning = before;
    this.resize();
    this.splats.draw(this.camera, [0, 0, 0, 0], true);
    return url;
  }
}

function offer(asset, spz) {
  const make = {
    ply: () => makePly(asset, page.world),
    spz: () => new Blob([spz], { type: "application/octet-stream" }),
    glb: () => makeGlb(asset),
  };
  for (const button of document.querySelectorAll("[data-file]")) {
    const kind = button.dataset.file;
    button.disabled = false;
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(make[kind]());
      link.download = `${page.file}.${kind}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    });
  }
  return make;
}

function bindKeys(live) {
  const step = Math.PI / 24;
  const moves = {
    ArrowLeft: () => live.nudge(-step, 0), ArrowRight: () => live.nudge(step, 0),
    ArrowUp: () => live.nudge(0, -step), ArrowDown: () => live.nudge(0, step),
    "+": () => live.nudge(0, 0, 0.9), "=": () => live.nudge(0, 0, 0.9), "-": () => live.nudge(0, 0, 1 / 0.9),
    " ": () => { live.turning = !live.turning; }, Home: () => live.home(),
  };
  stage.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move || event.target !== stage || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move();
  });
}

function bindButtons(live) {
  find("tools").hidden = false;
  find("turn").addEventListener("click", () => { live.turning = !live.turning; });
  find("home").addEventListener("click", () => live.home());
  find("ground").addEventListener("click", () => {
    const light = stage.classList.toggle("light");
    find("ground").setAttribute("aria-pressed", String(light));
  });
  const full = find("full");
  full.hidden = !document.fullscreenEnabled;
  full.addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else stage.requestFullscreen();
  });
}

/** Says below the still picture why nothing turns. */
function excuse(text) {
  find("note").hidden = false;
  find("note").textContent = text;
}

async function start() {
  const views = buildViews(page);
  const spz = bytesOf(page.spz);
  let asset;
  try {
    asset = await decodeSpz(spz);
  } catch (error) {
    excuse(`This browser cannot unpack the asset, so this is a still picture (${error.message}).`);
    return { canvas: null };
  }
  const make = offer(asset, spz);
  let live;
  try {
    live = new Stage(asset);
  } catch (error) {
    excuse(`${error.message}, so this is a still picture. The files can be saved all the same.`);
    return { canvas: null, make };
  }
  stage.classList.add("live");
  bindKeys(live);
  bindButtons(live);
  views.onSelect((index) => {
    live.turning = false;
    live.moveTo(page.cameras[index].position);
  });
  live.moved = (position) => views.near(position);
  return {
    canvas, make,
    setCamera: (camera, ground = [0, 0, 0, 0]) => live.hold(camera, ground),
    picture: (camera, ground = [0, 0, 0, 0]) => live.picture(camera, ground),
    release: () => live.resize(),
    turn: (on) => { live.turning = on; },
  };
}

// `cameras` and `ready` are there at once; the rest when `ready` has resolved.
window.im3d = { cameras: page.cameras };
window.im3d.ready = start().then((api) => {
  Object.assign(window.im3d, api);
  document.documentElement.dataset.ready = "true";
});
