"""Makes a 3D asset: first image, turntable views, gaussians fitted to them, and rounds of refinement.

Beside what `views` writes: asset.ply, turntable.mp4, asset_sheet.png, metrics.json and, for each round of
refinement, the views it drew. The same command goes on where an interrupted run stopped.
"""

from absl import flags

from im3d_jax.cli import common


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    common.register_source_flags(values)
    common.register_rounds_flag(values)
    common.register_foreign_flags(values)
    common.register_lpips_flag(values)
    common.register_run_flags(values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags, then makes the asset. Raises `UserError` for a wrong input."""
    settings = {"command": "generate", **common.source_settings(values), "rounds": values.rounds}
    common.find_weights(values)
    settings |= common.run_settings(values) | common.foreign_settings(values) | common.lpips_settings(values)
    folder = common.open_run(values, settings)
    common.start_jax()
    model, image_model = common.load_models(values, fits=True)
    perceptual = common.load_perceptual(values, model)
    from im3d_jax.cli import stages

    stages.make_asset(folder, model, values.image, image_model=image_model, perceptual=perceptual)
