"""Draws turntable views of what a prompt says or a picture shows.

Writes input.png, views/00.png and so on (16, or as many as a foreign model draws), views.mp4, sheet.png, cameras.json
and run.json into --out.
"""

from absl import flags

from im3d_jax.cli import common


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    common.register_source_flags(values)
    common.register_foreign_flags(values)
    common.register_run_flags(values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags, then draws. Raises `UserError` for a wrong input."""
    settings = {"command": "views", **common.source_settings(values)}
    common.find_weights(values)
    settings |= common.run_settings(values) | common.foreign_settings(values)
    folder = common.open_run(values, settings)
    common.start_jax()
    model, image_model = common.load_models(values, fits=False)
    from im3d_jax.cli import stages

    stages.make_views(folder, model, values.image, image_model=image_model)
