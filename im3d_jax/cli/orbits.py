"""What the stages do otherwise for foreign models: the rig is searched, and the views are fitted at a smaller size."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from im3d_jax.cli.errors import UserError
from im3d_jax.data.captures import Capture
from im3d_jax.data.prepare import block_mean
from im3d_jax.foreign import recipes
from im3d_jax.output.cameras import encode_cameras
from im3d_jax.output.progress import Report
from im3d_jax.output.run_folder import StageFiles, to_json
from im3d_jax.reconstruction import PRESETS, FitConfig
from im3d_jax.reconstruction.orbit_search import rig_cameras


ORBIT_FILE = "state/orbit.json"
SHEET_SIDE = 256  # pixels of each view on a sheet


def fit_config(quality: str, recipe: recipes.Recipe | None) -> FitConfig:
    """Settings of the fit of generated views; `recipe` is a foreign model's."""
    return PRESETS[quality] if recipe is None else recipes.fit_config(quality)


@contextlib.contextmanager
def enough_memory(model, batch: int | None = None) -> Iterator[None]:
    """Turns the runtime's complaint about too little device memory into one line; the estimate can be wrong.

    Args:
        model: What runs inside.
        batch: Objects at once, where fewer are possible.

    Raises:
        UserError: Work inside ran out of memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        memory = model.memory
        way_out = (
            "take a lower --quality" if memory is None else f"it ran with --memory={memory.name}: take a smaller one"
        )
        if batch is not None:
            way_out = f"take a smaller --batch than {batch}; or {way_out}"
        raise UserError(
            f"the device's memory is used up; {way_out}, or give this process more of it "
            "(XLA_PYTHON_CLIENT_MEM_FRACTION=0.95); what is finished is kept"
        ) from error


def find_cameras(
    files: StageFiles,
    model,
    views: np.ndarray,
    names: list[str],
    settings: Mapping[str, Any],
    report: Report,
    line: Callable[[str], Any],
) -> None:
    """Writes cameras.json and state/orbit.json: the rig of the model's recipe, what is not given fitted.

    Args:
        files: Of the stage.
        model: An `OrbitPipeline`.
        views: [V, H, W, 4].
        names: Of the views' files.
        settings: Of the run: `elevation_deg`, `orbit_direction`, `seed`.
        report: Takes the progress.
        line: Takes one line for the user.
    """
    given = settings["elevation_deg"]
    orbit = model.find_orbit(
        views,
        seed=settings["seed"],
        elevation=None if given is None else math.radians(given),
        direction=settings["orbit_direction"],
        progress=report,
    )
    rig = model.recipe.rig
    cameras = rig_cameras(
        orbit.elevation,
        orbit.direction,
        views=len(views),
        distance=rig.distance,
        fov=math.radians(rig.fov_deg),
        width=views.shape[2],
        height=views.shape[1],
    )
    elevation = math.degrees(orbit.elevation)
    facts = {
        "elevation_deg": round(elevation, 3),
        "elevation": "fitted" if given is None else "given",
        "direction": orbit.direction,
        "losses": dict(orbit.losses),
    }
    found = facts["elevation"]
    if orbit.start is not None:
        start = math.degrees(orbit.start)
        by = "rig's default" if orbit.reach is None else "CLIP features"
        facts |= {"start_deg": round(start, 3), "start": by}
        found += f" from {start:.1f}, "
        if orbit.reach is None:
            found += "where all searches start: no elevation head lies beside the weights"
        else:
            facts["reach_deg"] = round(math.degrees(orbit.reach), 3)
            found += f"estimated from CLIP features, within {facts['reach_deg']:.1f} of it"
    compared = ", ".join(f"{name} {loss:.4f}" for name, loss in orbit.losses.items())
    how = f"loss after a short fit: {compared}" if len(orbit.losses) > 1 else "given"
    line(f"the orbit turns {orbit.direction} ({how}) at {elevation:.1f} degrees ({found})")
    # Readers of cameras.json skip fields that they do not know.
    text = json.loads(encode_cameras(cameras, names, orbit.elevation))
    files.write("cameras.json", to_json({"orbit_direction": orbit.direction, **text}))
    files.write(ORBIT_FILE, to_json(facts))


def for_sheet(recipe: recipes.Recipe | None, views: np.ndarray) -> np.ndarray:
    """Views [V, H, W, C] as a sheet shows them: a foreign model's smaller, as large sheets take seconds to compress."""
    if recipe is None:
        return views
    block = -(-max(views.shape[1:3]) // SHEET_SIDE)
    return np.stack([block_mean(view, block) for view in views])


def reduced(capture: Capture, side: int) -> Capture:
    """The capture with views of at most `side` pixels, resampled premultiplied and antialiased."""
    height, width = capture.images.shape[1:3]
    scale = side / max(height, width)
    if scale >= 1.0:
        return capture
    size = round(width * scale), round(height * scale)
    images = np.stack([_resized(image, size) for image in capture.images])
    stretch = jnp.asarray([size[0] / width, size[1] / height, 1.0], jnp.float32)
    intrinsics = capture.cameras.intrinsics * stretch[None, :, None]
    cameras = dataclasses.replace(capture.cameras, intrinsics=intrinsics, width=size[0], height=size[1])
    return dataclasses.replace(capture, images=images, cameras=cameras)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[H, W, 4] straight alpha to (width, height) `size`."""
    premultiplied = np.concatenate([image[..., :3] * image[..., 3:], image[..., 3:]], axis=-1)
    channels = [
        np.asarray(Image.fromarray(np.ascontiguousarray(channel)).resize(size, Image.Resampling.BICUBIC))
        for channel in np.moveaxis(premultiplied, -1, 0)
    ]
    small = np.stack(channels, axis=-1)
    alpha = small[..., 3:].clip(0.0, 1.0)
    colour = np.where(alpha > 0.0, small[..., :3] / np.maximum(alpha, 1e-6), 0.0)
    return np.concatenate([colour.clip(0.0, 1.0), alpha], axis=-1).astype(np.float32)
