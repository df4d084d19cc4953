"""One part of a fit that survives interruption: checkpoints, previews, and what is there at Ctrl-C.

The partial state appears whole or not at all and carries a label of all that it depends on. It is seen only at
steps where an uninterrupted fit passes too, so that a fit that was killed and goes on ends with the same bytes.
"""

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from im3d_jax.cli.errors import user_errors
from im3d_jax.data.captures import Capture
from im3d_jax.models.ssim import psnr
from im3d_jax.output.images import encode_png, on_white
from im3d_jax.output.progress import Report
from im3d_jax.output.run_folder import RunFolder, StageFiles, file_hash, to_json
from im3d_jax.reconstruction import fitting, poses
from im3d_jax.reconstruction.presets import FitConfig, capture_config
from im3d_jax.reconstruction.state import FitState, read_label
from splat import Cameras, render, round_capacity
from splat.io import save_ply


CHECKPOINT_SECONDS = 15.0
PREVIEWS = 10  # in a whole fit of a capture
# Rows for gaussians of a capture: for views of up to 200x200 pixels, and at most for larger ones.
FEWEST_ROWS, MOST_ROWS, PIXELS_OF_FEWEST = 40_000, 200_000, 200 * 200


def capture_rows(capture: Capture) -> int:
    """Most gaussians of a capture's fit where the user does not say: by pixels, and twice the points it starts on."""
    pixels = capture.cameras.width * capture.cameras.height
    rows = min(MOST_ROWS, FEWEST_ROWS * max(1, -(-pixels // PIXELS_OF_FEWEST)))
    return max(rows, 0 if capture.points is None else 2 * len(capture.points))


def config_of(settings: dict[str, Any]) -> FitConfig:
    """The settings of a capture's fit, from the run's."""
    return capture_config(
        settings["steps"],
        strategy=settings["strategy"],
        sh_degree=settings["sh_degree"],
        random_background=settings["random_background"],
        refine_poses=settings["pose_refinement"],
        capacity=settings["gaussians"],
    )


def with_refined_poses(folder: RunFolder, capture: Capture, config: FitConfig) -> Capture:
    """The capture with the cameras of the finished fit."""
    if not config.lr_poses:
        return capture
    state = fitting.load_state(folder / "state/fit0.npz", config)
    if state.poses is None:
        return capture
    return dataclasses.replace(capture, cameras=poses.moved(capture.cameras, state.poses.motions, state.extent))


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
        self._name, self._true = shown.names[0], on_white(shown.images[0])
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
        decibels = float(psnr(jnp.asarray(drawn), jnp.asarray(self._true)))
        name = f"state/previews/{step:06d}.png"
        StageFiles(self._folder.path).write(name, encode_png(np.concatenate([self._true, drawn], axis=1)))
        self._line(f"step {step}: {decibels:.2f} dB on the {self._kind} {self._name}, see {self._folder / name}")


def fit_resumably(
    folder: RunFolder,
    part: int,
    begin: Callable[[], FitState],
    capture: Capture,
    config: FitConfig,
    *,
    stop: int,
    features: Any,
    inputs: Iterable[str],
    report: Report,
    line: Callable[[str], Any],
    previews: bool = False,
) -> FitState:
    """Fits one part up to step `stop`, from a partial state where there is one of the same inputs and settings.

    Args:
        folder: Of the run.
        part: Number of the part.
        begin: Makes the state before the part's first step.
        capture: The views.
        config: The fit's settings.
        stop: Last step.
        features: Network of the perceptual term, or None.
        inputs: Files that decide the result, beside the run's settings.
        report: Takes the progress.
        line: Takes one line for the user.
        previews: Whether to draw previews.

    Raises:
        KeyboardInterrupt: After Ctrl-C; by then the partial state and asset.ply hold what is there.
    """
    name = f"state/fit{part}.partial.npz"
    hashes = {file: file_hash(folder / file) for file in inputs}
    label = hashlib.sha256(to_json([folder.settings, part, stop, hashes])).hexdigest()
    state = None
    if read_label(folder / name) == label:
        with user_errors(ValueError):
            state = fitting.load_state(folder / name, config)
        line(f"going on from step {int(state.step)}")
    latest = begin() if state is None else state
    targets = fitting.Targets(jnp.asarray(capture.images))
    preview = Previewer(folder, capture, config, int(latest.step), line) if previews else None
    saved = time.monotonic()

    def save() -> None:
        StageFiles(folder.path).save(name, lambda path: fitting.save_state(path, latest, label))

    def observe(state: FitState) -> None:
        nonlocal latest, saved
        # The picture first: a fit that is killed here and goes on must not lack it.
        if preview is not None:
            preview(state, int(state.step))
        latest = state
        if time.monotonic() - saved >= CHECKPOINT_SECONDS:
            save()
            saved = time.monotonic()

    try:
        state, _ = fitting.fit(
            latest,
            targets,
            capture.cameras,
            config,
            features=features,
            stop_step=stop,
            progress=report,
            observe=observe,
        )
    except KeyboardInterrupt:
        if int(latest.step):
            save()
            StageFiles(folder.path).save("asset.ply", lambda path: save_ply(path, fitting.final_gaussians(latest)))
            line(f"stopped at step {int(latest.step)} of {config.steps}: {folder / 'asset.ply'} is what is there")
        raise
    return state


def forget(folder: RunFolder, part: int) -> None:
    """Removes the partial state of a part that is finished."""
    (folder / f"state/fit{part}.partial.npz").unlink(missing_ok=True)
