"""Fits gaussians to pictures with known cameras.

--data is a run folder of `im3d views` or `im3d generate` (cameras.json), or a capture: NeRF-synthetic's or
nerfstudio's fields (transforms_train.json or transforms.json; transforms_test.json for held-out metrics), or a
COLMAP model (sparse/0 and images). Writes asset.ply, turntable.mp4, metrics.json and run.json into --out.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
from absl import flags

from im3d_jax.cli import common
from im3d_jax.cli.errors import UserError, user_errors
from im3d_jax.foreign.layouts import is_foreign


SMALLEST_SIDE = 11  # pixels of a view: the window of SSIM
SMALLEST_LPIPS_SIDE = 16  # pixels: VGG16 halves four times
STEPS = 3000
# Flags that decide nothing on the other kind of --data.
_OF_CAPTURES = (
    "strategy", "steps", "sh_degree", "random_background", "pose_refinement", "gaussians", "hold_out", "lpips_weights",
)  # fmt: skip
_OF_RUN_FOLDERS = ("model", "quality")


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("data", None, "run folder or capture to read", flag_values=values)
    flags.DEFINE_integer(
        "downscale", 1, "mean over so many pixels squared before fitting", lower_bound=1, flag_values=values
    )
    flags.DEFINE_enum(
        "strategy", "default", ("default", "mcmc"), "captures: clone, split, prune, reset; or relocate and add noise",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("steps", STEPS, "captures: length of the fit", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "sh_degree", 3, "captures: degree of the spherical harmonics", lower_bound=0, upper_bound=4, flag_values=values
    )
    flags.DEFINE_bool(
        "random_background", False, "captures: another background colour each step, for pictures with alpha",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool("pose_refinement", False, "captures: let the cameras' poses move", flag_values=values)
    flags.DEFINE_integer(
        "gaussians", None, "captures: most gaussians; by default after the pictures' size", lower_bound=100,
        upper_bound=10_000_000, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "hold_out", 0, "captures without transforms_test.json: hold out every so-many-th view; 0 for none",
        lower_bound=0, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "lpips_weights", None, "captures: LPIPS (VGG16 and heads) as safetensors, for metrics.json", flag_values=values
    )
    common.register_run_flags(values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags, then fits. Raises `UserError` for a wrong input."""
    if not values.data:
        raise UserError("--data is missing; give a run folder or a capture")
    if values.out and os.path.realpath(values.out) == os.path.realpath(values.data):
        raise UserError("--out is the folder of --data; give another one, its results would be mixed")
    common.refuse_source_in_results(values, "--data", values.data)
    from im3d_jax.data.captures import CaptureError, find_camera_file, load_capture
    from im3d_jax.data.prepare import ImageError

    with user_errors(CaptureError, ImageError):
        source = find_camera_file(values.data)
        _refuse_flags_of_the_other_kind(values, source)
        capture = load_capture(values.data, values.downscale, hold_out=values.hold_out)
    width, height = capture.cameras.width, capture.cameras.height
    smallest = SMALLEST_LPIPS_SIDE if values.lpips_weights else SMALLEST_SIDE
    if min(width, height) < smallest:
        after = "" if values.downscale == 1 else f" after --downscale={values.downscale}"
        raise UserError(
            f"{capture.source}: the views have {width}x{height} pixels{after}; expected at least {smallest}x{smallest}"
        )
    if capture.generated and len(capture.images) < 2:
        raise UserError(f"{capture.source}: one view; an orbit has at least 2, the first of which is the given one")
    refuse_one_place(capture, values.hold_out)
    recipe = _recipe(source) if capture.generated else None
    settings = {
        "command": "reconstruct",
        "data_sha256": capture.digest(),
        "downscale": values.downscale,
        **(common.run_settings(values) if capture.generated else _capture_settings(values, capture)),
    }
    if recipe is not None:
        from im3d_jax.cli.orbits import fit_config

        settings["fit"] = dataclasses.asdict(fit_config(values.quality, recipe))
    folder = common.open_run(values, settings)
    common.start_jax()
    from im3d_jax.cli import stages

    model = common.load_model(values.model) if capture.generated else None
    stages.reconstruct(folder, capture, model, lpips=_load_lpips(values.lpips_weights), recipe=recipe)


def _recipe(source: pathlib.Path):
    """How the orbits of foreign models are fitted, where a cameras.json is of one; else None."""
    from im3d_jax.foreign.recipes import RECIPES

    return RECIPES["sv3d_u"] if "orbit_direction" in json.loads(source.read_bytes()) else None


def _refuse_flags_of_the_other_kind(values: flags.FlagValues, source: os.PathLike) -> None:
    generated = os.path.basename(source) == "cameras.json"
    kind, foreign = ("a run folder", _OF_CAPTURES) if generated else ("a capture", _OF_RUN_FOLDERS)
    for name in foreign:
        if values[name].present:
            other = "captures" if generated else "run folders"
            raise UserError(f"--{name} is for {other}, and {source} is {kind}; leave it away")
    if generated and values.model != "tiny" and is_foreign(values.model):
        raise UserError(
            f"--model={values.model} has no network that a fit compares with; leave it away: the bundled model serves "
            "for the views of every other one"
        )


def refuse_one_place(capture, hold_out: int) -> None:
    """Refuses views from one place: they leave all depths open, and only a model's points can say where to begin.

    Raises:
        UserError: all cameras of the `Capture` lie in one place, and it has no points.
    """
    pose = np.asarray(capture.cameras.world_to_camera, np.float64)
    eyes = -np.einsum("vji,vj->vi", pose[:, :3, :3], pose[:, :3, 3])
    spread = np.ptp(eyes, axis=0).max()
    # The poses are float32: what is left of equal positions is their rounding.
    if capture.points is None and spread <= 1e-6 * np.abs(eyes).max():
        left = f" (--hold_out={hold_out} leaves {len(eyes)} to fit)" if hold_out else ""
        raise UserError(
            f"{capture.source}: {len(eyes)} view{'s' * (len(eyes) > 1)} from one place{left}, which leaves all depths "
            "open; expected views from different places, or a COLMAP model with points"
        )


def _capture_settings(values: flags.FlagValues, capture) -> dict[str, Any]:
    from im3d_jax.cli import fits

    return {
        "seed": values.seed,
        "hold_out": values.hold_out,
        "steps": values.steps,
        "strategy": values.strategy,
        "sh_degree": values.sh_degree,
        "random_background": values.random_background,
        "pose_refinement": values.pose_refinement,
        "gaussians": values.gaussians or fits.capture_rows(capture),
    }


def _load_lpips(path: str | None):
    """LPIPS parameters and the hash of their file, or None."""
    if path is None:
        return None
    from safetensors import SafetensorError

    from im3d_jax.models import lpips
    from im3d_jax.output.run_folder import file_hash

    with user_errors(ValueError, OSError):
        try:
            return lpips.load(path), file_hash(path)
        except SafetensorError as error:
            raise UserError(f"--lpips_weights={path} is damaged ({error}); download it again") from None
