"""Work of the stages that fit gaussians: one part of a fit, which survives interruption.

A run folder keeps the state of an unfinished part; it appears whole or not at all and carries a label of all that it
depends on. It is written only at steps where an uninterrupted fit passes too, so that a fit that was killed and resumed
ends with the same bytes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from im3d_jax import seeds
from im3d_jax.data.captures import Capture
from im3d_jax.generation.stages import Result, Workplace
from im3d_jax.images.alpha import composite
from im3d_jax.images.files import encode_png
from im3d_jax.images.metrics import foreground_psnr, psnr
from im3d_jax.images.resize import resize
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.output.run_folder import RunFolder, StageFiles
from im3d_jax.reconstruction import FitConfig, FitState, Targets, final_gaussians, fitting, load_state, save_state
from im3d_jax.reconstruction.state import read_label
from splat import Cameras, render, round_capacity
from splat.io import save_ply


CHECKPOINT_SECONDS = 15.0
PREVIEWS = 10  # in a whole fit of a capture


def partial_file(name: str) -> str:
    """Path in a run folder of the state of a stage that is not finished."""
    return f"state/{name}.partial.npz"


def smaller_views(images: np.ndarray, cameras: Cameras, side: int | None) -> tuple[np.ndarray, Cameras]:
    """Views [V, H, W, 4] of at most `side` pixels and their cameras, resampled premultiplied and antialiased."""
    height, width = images.shape[1:3]
    scale = 1.0 if side is None else side / max(height, width)
    if scale >= 1.0:
        return images, cameras
    new = round(width * scale), round(height * scale)
    images = np.stack([resize(image, *new) for image in images])
    stretch = jnp.asarray([new[0] / width, new[1] / height, 1.0], jnp.float32)
    intrinsics = cameras.intrinsics * stretch[None, :, None]
    return images, dataclasses.replace(cameras, intrinsics=intrinsics, width=new[0], height=new[1])


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """One part of a fit.

    Attributes:
        config: Of the whole fit.
        stop: Last step of the part.
        seed: Of everything that is random.
        network: Features of the perceptual term, or None.
        side: Longest side of the views that the fit sees, pixels; None for the views' own.
        capture: Its points and colours are the start, and previews show one of its views; None for generated views.
        before: Called first: frees device memory.
    """

    config: FitConfig
    stop: int
    seed: int
    network: Perceptual | None = None
    side: int | None = None
    capture: Capture | None = None
    before: Callable[[], Any] = lambda: None

    def __call__(
        self, place: Workplace, cameras: Cameras, images: np.ndarray, state: FitState | None = None
    ) -> Result[FitState]:
        """Fits up to `stop`.

        Args:
            place: See `Workplace`.
            cameras: V cameras.
            images: [V, H, W, 4] straight alpha.
            state: Of the part before, or None to begin.
        """
        self.before()
        images, cameras = smaller_views(images, cameras, self.side)
        valid = None if self.capture is None else self.capture.valid
        targets = Targets(jnp.asarray(images), None if valid is None else jnp.asarray(valid))
        kept = self._resume(place)
        if kept is not None:
            state = kept
        elif state is None:
            key = seeds.stream(self.seed, seeds.FIT)
            points, colours = (None, None) if self.capture is None else (self.capture.points, self.capture.colours)
            state = fitting.init_state(
                key,
                self.config,
                cameras,
                targets=targets,
                points=points,
                colours=colours,
                report=lambda done, total: place.report(0, self.stop, f"depths of view {done} of {total}"),
            )
        return Result(self._fit(place, state, targets, cameras))

    def _resume(self, place: Workplace) -> FitState | None:
        if place.folder is None or read_label(place.folder / partial_file(place.name)) != place.label:
            return None
        try:
            state = load_state(place.folder / partial_file(place.name), self.config)
        except ValueError:
            place.line("the fit so far is damaged: its part begins again")
            return None
        place.line(f"resuming at step {int(state.step)}")
        return state

    def _fit(self, place: Workplace, state: FitState, targets: Targets, cameras: Cameras) -> FitState:
        latest, saved, folder, first = state, time.monotonic(), place.folder, int(state.step)
        preview = None
        if self.capture is not None and folder is not None:
            preview = Previewer(folder, self.capture, self.config, first, place.line)

        def save() -> None:
            if folder is not None:
                file, label = partial_file(place.name), place.label
                StageFiles(folder.path).save(file, lambda path: save_state(path, latest, label))

        def observe(state: FitState) -> None:
            nonlocal latest, saved
            # The picture first: a fit that is killed here and resumed must not lack it.
            if preview is not None:
                preview(state, int(state.step))
            latest = state
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                save()
                saved = time.monotonic()

        try:
            done, _ = fitting.fit(
                state,
                targets,
                cameras,
                self.config,
                features=self.network,
                stop_step=self.stop,
                progress=lambda step, total, note: place.report(step - first, self.stop - first, note),
                observe=observe,
            )
        except KeyboardInterrupt:
            if folder is not None and int(latest.step):
                save()
                origin = (0.0, 0.0, 0.0) if self.capture is None else self.capture.origin
                write = lambda path: save_ply(path, final_gaussians(latest), origin=origin)  # noqa: E731
                StageFiles(folder.path).save("asset.ply", write)
                asset = folder / "asset.ply"
                place.line(f"stopped at step {int(latest.step)} of {self.config.steps}: {asset} holds the fit so far")
            raise
        return done


class Previewer:
    """Renders of one view beside the truth, in state/previews, about every tenth of the fit.

    Args:
        folder: Of the run.
        capture: The first of its held-out views is shown, or of its views.
        config: The fit's settings.
        step: Steps done before.
        line: Takes one line for the user.
    """

    def __init__(self, folder: RunFolder, capture: Capture, config: FitConfig, step: int, line: Callable[[str], Any]):
        shown = capture if capture.test is None else capture.test
        self._folder, self._line, self._step = folder, line, step
        self._kind = "view" if capture.test is None else "held-out view"
        self._camera: Cameras = shown.cameras[0]
        self._name, self._true = shown.names[0], composite(shown.images[0])
        self._valid = None if shown.valid is None else shown.valid[0]
        self._every = max(1, config.steps // PREVIEWS)

    def __call__(self, state: FitState, step: int) -> None:
        """Draws if a tenth of the fit is done since the last picture."""
        before, self._step = self._step, step
        if before // self._every == step // self._every:
            return
        capacity, picture = state.pair_capacity, None
        while picture is None or picture.pairs > capacity:
            capacity = capacity if picture is None else round_capacity(int(picture.pairs), margin=1.0)
            picture = render(state.gaussians, self._camera, background=1.0, capacity=capacity, active=state.active)
        drawn = np.asarray(picture.rgb[0]).clip(0.0, 1.0)
        if self._valid is None:
            decibels = float(psnr(jnp.asarray(drawn), jnp.asarray(self._true)))
        else:
            decibels = float(foreground_psnr(drawn, self._true, self._valid.astype(np.float32)))
        name = f"state/previews/{step:06d}.png"
        StageFiles(self._folder.path).write(name, encode_png(np.concatenate([self._true, drawn], axis=1)))
        self._line(f"step {step}: {decibels:.2f} dB on the {self._kind} {self._name}, see {self._folder / name}")
