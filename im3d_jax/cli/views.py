"""Draws turntable views of an object from a prompt, a picture or both: the first half of `im3d generate`.

Writes input.png, views/00.png and so on (16, or as many as the model draws), views.mp4, sheet.png, cameras.json and
run.json into --out. Rerun the same command to resume an interrupted run.
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
    shared.define_drawing(values)
    shared.define_run(values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags, then draws. Raises `InputError` for a wrong input."""
    request, out = commands.request_of(values), shared.out_of(values)
    environment.start_jax()
    from im3d_jax.generation import api

    model, progress = shared.model_of(values), ProgressPrinter()
    api.views(model, request, progress=progress, out=out, overwrite=values.overwrite)
    folder = pathlib.Path(out)
    progress.line(f"views: {folder / 'views'}, contact sheet: {folder / 'sheet.png'}")
