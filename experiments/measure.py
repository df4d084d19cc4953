"""The figures of one object beside its true turntable, and those of a finished run, which has none."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.clip_metrics import Clip
from im3d_jax.cli import stages
from im3d_jax.errors import InputError, input_errors
from im3d_jax.data import turntables
from im3d_jax.data.captures import CaptureError, load_capture
from im3d_jax.errors import ImageError
from im3d_jax.data.toybox import ToyObject
from im3d_jax.images import metrics
from im3d_jax.images.alpha import composite_on_white
from im3d_jax.models import lpips, perceptual
from im3d_jax.images.files import read_image, to_bytes
from im3d_jax.output.renders import render_views
from im3d_jax.output.run_folder import RUN_FILE, STAGES_FILE, file_hash
from im3d_jax.output.sheets import contact_sheet
from im3d_jax.reconstruction import PRESETS, FitConfig, Targets, final_gaussians, fit, init_state
from splat import Cameras, Gaussians, orbit_cameras
from splat.io import load_ply


HALF_A_FRAME = math.pi / turntables.ORBIT_FRAMES


@dataclasses.dataclass(frozen=True)
class Asset:
    """An asset after some number of refinements.

    Attributes:
        gaussians: the asset.
        targets: [T, H, W, 4], the views that it was fitted to last.
        seconds: of all fits and refinements on the way to it.
        network_evaluations: of all refinements on the way to it.
    """

    gaussians: Gaussians
    targets: np.ndarray
    seconds: float
    network_evaluations: int


@dataclasses.dataclass(frozen=True)
class Judges:
    """Networks with weights of the user's that measure beside the model's own features.

    Attributes:
        lpips: parameters of `models.lpips`, or None.
        clip: for similarities to the caption and to the given picture, or None.
    """

    lpips: lpips.Params | None = None
    clip: Clip | None = None

    def similarities(self, views: np.ndarray, caption: str | None, image: np.ndarray) -> dict[str, float]:
        """Mean CLIP similarities of views [T, H, W, 4] but the first, which is given; nothing without CLIP."""
        return {} if self.clip is None else self.clip.similarities(views[1:], prompt=caption, image=image)


def as_stored(images: np.ndarray) -> np.ndarray:
    """Pictures in [0, 1] as they come back from 8-bit PNG files, float32."""
    return to_bytes(images).astype(np.float32) / 255.0


def make_assets(
    model,
    views: np.ndarray,
    caption: str,
    cameras: Cameras,
    rounds: Sequence[int],
    config: FitConfig,
    drawing: dict,
) -> dict[int, Asset]:
    """Fits as the stages of `im3d generate` do; assets of fewer rounds share what comes before they part.

    Args:
        model: a `Pipeline`.
        views: [T, H, W, 4] the first sample as stored; view 0 is the given picture.
        caption: the prompt.
        cameras: of the views.
        rounds: for which numbers of refinements an asset is wanted, each 0 to 2.
        config: settings of the fit.
        drawing: `seed` and `quality` of the model's drawings.

    Returns:
        One asset for each entry of `rounds`.
    """
    started = time.monotonic()
    seconds, evaluations, image, assets = 0.0, 0, views[0], {}
    key = jax.random.fold_in(jax.random.key(drawing["seed"]), stages.FIT_STREAM)
    state = init_state(key, config, cameras, targets=Targets(jnp.asarray(views)))
    for number in range(max(rounds) + 1):
        targets = Targets(jnp.asarray(views))
        last = number == max(rounds)
        if not last:
            stop = config.steps * stages.REFRESH_TWELFTHS[number] // 12
            state, _ = fit(state, targets, cameras, config, features=model.features, stop_step=stop)
        seconds += time.monotonic() - started
        started = time.monotonic()
        if number in rounds:
            done, _ = fit(state, targets, cameras, config, features=model.features)
            gaussians = final_gaussians(done)
            assets[number] = Asset(gaussians, views, seconds + time.monotonic() - started, evaluations)
        started = time.monotonic()
        if not last:
            renders = render_views(final_gaussians(state), cameras)
            drawn, count = model.refine(renders, image, caption, round=number + 1, progress=None, **drawing)
            views = np.concatenate([image[None], as_stored(drawn[1:])])
            evaluations += count
    return assets


@jax.jit
def _figures_of_images(features, made: jax.Array, true: jax.Array) -> dict[str, jax.Array]:
    made, true = composite_on_white(made), composite_on_white(true)
    shown, wanted = made[..., :3], true[..., :3]
    return {
        "psnr": metrics.psnr(shown, wanted),
        "foreground_psnr": metrics.foreground_psnr(shown, wanted, true[..., 3]),
        "ssim": metrics.ssim(shown, wanted),
        "perceptual": perceptual.distance(features(made), features(true)),
    }


@jax.jit
def _lpips_of_images(params: lpips.Params, made: jax.Array, true: jax.Array) -> jax.Array:
    pairs = tuple(composite_on_white(images)[:, None, ..., :3] for images in (made, true))
    # One pair after the other: VGG's first maps are many times as large as the pictures.
    return jax.lax.map(lambda pair: lpips.lpips(params, *pair)[0], pairs)


def compare(
    features, made: np.ndarray, true: np.ndarray, *, skip: int = 0, lpips_params: lpips.Params | None = None
) -> dict[str, float]:
    """Means over images of PSNR and foreground PSNR (dB), SSIM, perceptual distance and LPIPS, on white.

    Args:
        features: network of the perceptual distance, a `jax.tree_util.Partial`.
        made, true: [V, H, W, 4] in [0, 1], straight alpha; the true alpha is the foreground's mask.
        skip: images at the start that do not count.
        lpips_params: for LPIPS, which is left out without them.
    """
    figures = _figures_of_images(features, jnp.asarray(made), jnp.asarray(true))
    if lpips_params is not None:
        figures["lpips"] = _lpips_of_images(lpips_params, jnp.asarray(made), jnp.asarray(true))
    return {name: float(np.mean(np.asarray(values)[skip:], dtype=np.float64)) for name, values in figures.items()}


_render_orbit = jax.jit(turntables.render_orbit, static_argnames=("size",))


def evaluate_object(
    model,
    toy: ToyObject,
    caption: str,
    *,
    rounds: Sequence[int],
    quality: str,
    seed: int,
    judges: Judges = Judges(),
) -> tuple[dict[str, Any], np.ndarray]:
    """Makes the views and assets of one object and measures them.

    Args:
        model: a `Pipeline`.
        toy: the object, with its elevation.
        caption: its caption, the prompt.
        rounds: numbers of refinements to compare.
        quality: preset of the sampling and of the fit.
        seed: of all drawings and fits.
        judges: more networks to measure with.

    Returns:
        The figures (docs/results.md explains them), and a picture [H, W, 3]: every second frame of the truth,
        of the views, and of the assets by rounds at the estimated elevation, each in a row.
    """
    size, drawing, features = model.image_size, {"seed": seed, "quality": quality}, model.features
    true = np.asarray(_render_orbit(toy, size=size, azimuth_offset=0.0))
    between = np.asarray(_render_orbit(toy, size=size, azimuth_offset=HALF_A_FRAME))
    image = as_stored(true[0])

    started = time.monotonic()
    drawn, evaluations = model.draw_views(image, caption, progress=None, **drawing)
    views = np.concatenate([image[None], as_stored(drawn[1:])])
    elevation = model.estimate_elevation(views)
    seconds = time.monotonic() - started

    def compared(made: np.ndarray, wanted: np.ndarray, skip: int = 0) -> dict[str, float]:
        return compare(features, made, wanted, skip=skip, lpips_params=judges.lpips)

    def rig(angle: float, offset: float = 0.0) -> Cameras:
        return orbit_cameras(angle, views=len(views), width=size, height=size, azimuth_offset=offset)

    assets = make_assets(model, views, caption, rig(elevation), rounds, PRESETS[quality], drawing)
    rows, figures = [true, views], {}
    true_elevation = float(toy.elevation)
    for number, asset in assets.items():
        renders = {
            name: [render_views(asset.gaussians, rig(angle, offset)) for offset in (0.0, HALF_A_FRAME)]
            for name, angle in (("estimated", elevation), ("true", true_elevation))
        }
        rows.append(renders["estimated"][0])
        figures[str(number)] = {
            name: {
                "cameras": compared(at_cameras, true, skip=1),
                "between": compared(in_between, between),
            }
            for name, (at_cameras, in_between) in renders.items()
        } | {
            "rerendered": judges.similarities(renders["estimated"][0], caption, image),
            "targets": compared(asset.targets, true, skip=1),
            "residual": compared(renders["estimated"][0], asset.targets, skip=1),
            "gaussians": len(asset.gaussians),
            "seconds": seconds + asset.seconds,
            "network_evaluations": evaluations + asset.network_evaluations,
        }
    repeated = np.broadcast_to(image[None], true.shape)
    record = {
        "elevation_deg": {
            "true": math.degrees(true_elevation),
            "estimated": math.degrees(elevation),
            "error": abs(math.degrees(elevation - true_elevation)),
        },
        "views": compared(views, true, skip=1)
        | judges.similarities(views, caption, image)
        | {"seconds": seconds, "network_evaluations": evaluations},
        "truth": judges.similarities(true, caption, image),
        "repeat": compared(repeated, true, skip=1),
        "assets": figures,
    }
    tiles = np.concatenate([row[::2] for row in rows])
    return record, contact_sheet(tiles, columns=len(true[::2]))


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run folder of `im3d generate` whose stages are finished and whose files are as they were written.

    Attributes:
        path: the folder.
        model: name of what drew the views.
        prompt: of the run, or None.
        views: names of the views that the asset was fitted to last, the given one first.
    """

    path: pathlib.Path
    model: str
    prompt: str | None
    views: tuple[str, ...]


def open_finished_run(folder: str) -> FinishedRun:
    """Looks at a run folder and changes nothing in it.

    Raises:
        InputError: no such folder, no run of `im3d generate`, or one that is unfinished or was changed.
    """
    path = pathlib.Path(folder)
    if not (path / RUN_FILE).is_file():
        what = f"no {RUN_FILE} in it" if path.is_dir() else "no such folder"
        raise InputError(f"--runs={folder}: {what}; expected the run folder of a finished `im3d generate`")
    run, finished = _read_object(path / RUN_FILE), {}
    if (path / STAGES_FILE).is_file():
        finished = _read_object(path / STAGES_FILE)
    settings = run.get("settings")
    command = settings.get("command") if isinstance(settings, dict) else None
    if command != "generate":
        raise InputError(f"--runs={folder}: a run of {command!r}; expected one of 'generate', with views and an asset")
    rounds = settings.get("rounds")
    drawn = f"refine{rounds}" if rounds else "views"
    again = "give its command again, which goes on where it stopped"
    if "metrics" not in finished:
        raise InputError(f"--runs={folder}: the run is unfinished; {again}")
    outputs: dict[str, dict[str, str]] = {}
    for stage in ("input", "cameras", "asset", drawn):
        record = finished.get(stage)
        outputs[stage] = record.get("outputs") if isinstance(record, dict) else None
        if not isinstance(outputs[stage], dict):
            raise InputError(f"--runs={folder}: {STAGES_FILE} has no stage {stage!r}; {again} or with --overwrite")
        for name, digest in outputs[stage].items():
            if not (path / name).is_file() or digest not in (None, file_hash(path / name)):
                raise InputError(f"--runs={folder}: {name} is missing or was changed since; {again}")
    return FinishedRun(path, str(run.get("model")), settings.get("prompt"), tuple(sorted(outputs[drawn])))


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged; make the run anew with --overwrite")
    return value


@jax.jit
def _perceptual_of_images(features, made: jax.Array, true: jax.Array) -> jax.Array:
    return perceptual.distance(features(composite_on_white(made)), features(composite_on_white(true)))


def measure_run(run: FinishedRun, judges: Judges, features=None) -> dict[str, Any]:
    """Measures what a run left, without a truth; the given view proves nothing and does not count.

    Args:
        run: of any model.
        judges: CLIP, and LPIPS where its weights are given.
        features: network of the perceptual distance, measured where LPIPS has no weights.

    Returns:
        `views` and `rerendered`: CLIP similarities of the views drawn last and of the asset at their cameras, to the
        prompt (where there is one) and to the given picture; `residual`: `lpips` or `perceptual` between the two.

    Raises:
        InputError: files that cannot be used.
    """
    with input_errors(CaptureError, ImageError):
        capture = load_capture(run.path, file_paths=list(run.views))
        image = read_image(run.path / "input.png")
    renders = render_views(load_ply(run.path / "asset.ply"), capture.cameras)
    made, wanted = jnp.asarray(renders[1:]), jnp.asarray(capture.images[1:])
    if judges.lpips is not None:
        residual = {"lpips": _lpips_of_images(judges.lpips, made, wanted)}
    else:
        residual = {"perceptual": _perceptual_of_images(features, made, wanted)}
    return {
        "views": judges.similarities(capture.images, run.prompt, image),
        "rerendered": judges.similarities(renders, run.prompt, image),
        "residual": {name: float(np.mean(np.asarray(values), dtype=np.float64)) for name, values in residual.items()},
    }
