"""Fits gaussians to pictures with known cameras.

--data is a run folder of `im3d views` or `im3d generate` (cameras.json), or a capture with NeRF-synthetic's
or nerfstudio's fields (transforms_train.json or transforms.json; transforms_test.json for held-out metrics).
Writes asset.ply, turntable.mp4, metrics.json and run.json into --out.
"""

import os

from absl import flags

from im3d_jax.cli import common
from im3d_jax.cli.errors import UserError, user_errors


SMALLEST_SIDE = 11  # pixels of a view: the window of SSIM


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("data", None, "run folder or capture to read", flag_values=values)
    flags.DEFINE_integer(
        "downscale", 1, "mean over so many pixels squared before fitting", lower_bound=1, flag_values=values
    )
    common.register_run_flags(values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags, then fits. Raises `UserError` for a wrong input."""
    if not values.data:
        raise UserError("--data is missing; give a run folder or a capture")
    if values.out and os.path.realpath(values.out) == os.path.realpath(values.data):
        raise UserError("--out is the folder of --data; give another one, its results would be mixed")
    common.refuse_source_in_results(values, "--data", values.data)
    from im3d_jax.data.captures import CaptureError, load_capture
    from im3d_jax.data.prepare import ImageError

    with user_errors(CaptureError, ImageError):
        capture = load_capture(values.data, values.downscale)
    width, height = capture.cameras.width, capture.cameras.height
    if min(width, height) < SMALLEST_SIDE:
        after = "" if values.downscale == 1 else f" after --downscale={values.downscale}"
        raise UserError(
            f"{capture.source}: the views have {width}x{height} pixels{after}; expected at least "
            f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        )
    if capture.generated and len(capture.images) < 2:
        raise UserError(f"{capture.source}: one view; an orbit has at least 2, the first of which is the given one")
    settings = {
        "command": "reconstruct",
        "data_sha256": capture.digest(),
        "downscale": values.downscale,
        **common.run_settings(values),
    }
    folder = common.open_run(values, settings)
    common.start_jax()
    from im3d_jax.cli import stages

    model = common.load_model(values.model) if capture.generated else None
    stages.reconstruct(folder, capture, model)
