"""Draws 16 turntable views of what a prompt says or a picture shows.

Writes input.png, views/00.png to 15.png, views.mp4, sheet.png, cameras.json and run.json into --out.
"""

from absl import flags

from im3d_jax.cli import common


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    common.register_source_flags(values)
    common.register_run_flags(values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags, then draws. Raises `UserError` for a wrong input."""
    settings = {"command": "views", **common.source_settings(values), **common.run_settings(values)}
    folder = common.open_run(values, settings)
    common.start_jax()
    model = common.load_model(values.model)
    from im3d_jax.cli import stages

    stages.make_views(folder, model, image_path=values.image)
