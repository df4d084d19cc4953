"""Fits gaussians to pictures with known cameras: the second half of `im3d generate`.

--data is a run folder of `im3d views` or `im3d generate` (cameras.json), or a capture: a NeRF-synthetic or nerfstudio
folder (transforms_train.json or transforms.json; transforms_test.json for held-out metrics), or a COLMAP model
(sparse/0 and images). Writes asset.ply, turntable.mp4, asset_sheet.png, metrics.json and run.json into --out. Rerun the
same command to resume an interrupted run.
"""

import os
import pathlib

from absl import flags

from im3d_jax import environment
from im3d_jax.choices import FEWEST_GAUSSIANS, MOST_GAUSSIANS
from im3d_jax.cli import flags as commands
from im3d_jax.errors import InputError
from im3d_jax.generation import flags as shared
from im3d_jax.number_flags import define_integer
from im3d_jax.paths import define_path
from im3d_jax.progress import ProgressPrinter


STEPS = 3000
# Flags that decide nothing on the other kind of --data.
_OF_CAPTURES = (
    "strategy", "steps", "sh_degree", "random_background", "pose_refinement", "gaussians", "hold_out", "lpips_weights",
)  # fmt: skip
_OF_RUN_FOLDERS = ("model", "quality")


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("data", None, "run folder or capture to read, or its camera file", flag_values=values)
    define_integer("downscale", 1, "shrink the views by this factor before fitting", lower_bound=1, flag_values=values)
    flags.DEFINE_enum(
        "strategy", "default", ("default", "mcmc"), "captures: `default` clones, splits and prunes; `mcmc` relocates "
        "and adds noise", flag_values=values,
    )  # fmt: skip
    define_integer("steps", STEPS, "captures: optimisation steps", lower_bound=1, flag_values=values)
    define_integer(
        "sh_degree", 3, "captures: degree of the spherical harmonics", lower_bound=0, upper_bound=4, flag_values=values
    )
    flags.DEFINE_bool(
        "random_background", False, "captures with alpha: a new background colour each step",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool("pose_refinement", False, "captures: refine the camera poses", flag_values=values)
    define_integer(
        "gaussians", None, "captures: largest number of gaussians; by default set by the size of the views",
        lower_bound=FEWEST_GAUSSIANS, upper_bound=MOST_GAUSSIANS, flag_values=values,
    )  # fmt: skip
    define_integer(
        "hold_out", 0, "captures without transforms_test.json: hold out every N-th view; 0 for none",
        lower_bound=0, flag_values=values,
    )  # fmt: skip
    define_path(
        "lpips_weights", None, "captures: adds LPIPS to metrics.json: files with VGG16 and the LPIPS heads, or lpips-j",
        flag_values=values,
    )  # fmt: skip
    shared.define_run(values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags, then fits. Raises `InputError` for a wrong input."""
    if not values.data:
        raise InputError("--data is missing; give a run folder or a capture, for instance --data=runs/mug")
    from im3d_jax.data.captures import find_camera_file, folder_of, load_capture

    data = str(folder_of(values.data))
    if values.out and os.path.realpath(values.out) == os.path.realpath(data):
        raise InputError("--out and --data are the same folder; give another --out, or their results would mix")
    commands.refuse_source_in_results(values, "--data", data)
    commands.refuse_out_in_results(values, "--data", data)
    from im3d_jax.generation.captures import CaptureSettings, check_capture

    _refuse_flags_of_the_other_kind(values, find_camera_file(values.data))
    capture = load_capture(values.data, values.downscale, hold_out=values.hold_out)
    with_lpips = values.lpips_weights is not None
    check_capture(capture, lpips=with_lpips, downscale=values.downscale, hold_out=values.hold_out)
    out = shared.out_of(values)
    environment.start_jax()
    from im3d_jax.generation import api

    settings = CaptureSettings(
        steps=values.steps,
        strategy=values.strategy,
        sh_degree=values.sh_degree,
        random_background=values.random_background,
        pose_refinement=values.pose_refinement,
        gaussians=values.gaussians,
    )
    progress = ProgressPrinter()
    api.reconstruct(
        capture,
        settings=None if capture.generated else settings,
        model=shared.model_of(values) if capture.generated else "tiny",
        quality=values.quality,
        seed=values.seed,
        downscale=values.downscale,
        hold_out=values.hold_out,
        lpips=values.lpips_weights,
        progress=progress,
        out=out,
        overwrite=values.overwrite,
    )
    folder = pathlib.Path(out)
    progress.line(f"asset: {folder / 'asset.ply'}, turntable: {folder / 'turntable.mp4'}")


def _refuse_flags_of_the_other_kind(values: flags.FlagValues, source: pathlib.Path) -> None:
    generated = source.name == "cameras.json"
    kind, names = ("a run folder", _OF_CAPTURES) if generated else ("a capture", _OF_RUN_FOLDERS)
    other = "captures" if generated else "run folders"
    for name in names:
        if values[name].present:
            raise InputError(f"--{name} is for {other}, but {source} is {kind}; remove the flag")
