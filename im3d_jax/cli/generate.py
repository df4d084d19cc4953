"""Makes a 3D asset from a prompt, a picture or both: turntable views, gaussians fitted to them, refinement.

Writes what `im3d views` writes, and asset.ply, turntable.mp4, asset_sheet.png, metrics.json and the views of each round
of refinement. Rerun the same command to resume an interrupted run.
"""

import pathlib

from absl import flags

from im3d_jax import environment
from im3d_jax.cli import flags as commands
from im3d_jax.generation import flags as shared
from im3d_jax.progress import ProgressPrinter


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    commands.define_source(values)
    shared.define_fit(values)
    shared.define_drawing(values)
    shared.define_run(values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags, then makes the asset. Raises `InputError` for a wrong input."""
    request, out = commands.request_of(values), shared.out_of(values)
    environment.start_jax()
    from im3d_jax.generation import api

    model = shared.model_of(values)
    progress, lpips = ProgressPrinter(), shared.lpips_of(values)
    api.generate(model, request, progress=progress, out=out, overwrite=values.overwrite, lpips=lpips)
    folder = pathlib.Path(out)
    progress.line(f"asset: {folder / 'asset.ply'}, turntable: {folder / 'turntable.mp4'}")
