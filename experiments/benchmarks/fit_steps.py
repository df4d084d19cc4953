"""Times optimisation steps of the standard fit, with the bundled model's perceptual features; prints one JSON line.

    python -m experiments.benchmarks.fit_steps --gaussians=5000 --views=1 --size=128

The targets are an orbit of a torus, all `--views` of which every step sees; density control is off.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from experiments.benchmarks import scenes
from experiments.benchmarks.timing import Lines, peak_gib
from experiments.programs import Program
from im3d_jax.number_flags import define_integer
from im3d_jax.output.renders import render_views
from im3d_jax.paths import define_path
from im3d_jax.pipelines import load
from im3d_jax.reconstruction import Targets, fit, init_state


WARM_UP = 5  # steps


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    define_integer("gaussians", 20_000, "of the torus and of the fit", lower_bound=1, flag_values=values)
    define_integer("views", 16, "cameras", lower_bound=1, flag_values=values)
    define_integer("size", 256, "side of the pictures, pixels", lower_bound=16, flag_values=values)
    define_integer("repeats", 20, "timed steps", lower_bound=1, flag_values=values)
    define_path("out", None, "also append the line to this file", flag_values=values)


def time_steps(count: int, views: int, size: int, repeats: int) -> dict[str, Any]:
    """Times steps of a fit.

    Args:
        count: Gaussians.
        views: Cameras, all of which every step sees.
        size: Side of the pictures, pixels.
        repeats: Timed steps.

    Returns:
        `first_steps_s` (compilation included), `ms_per_step` of the others, `peak_gib`.
    """
    cameras = jax.tree.map(jnp.asarray, scenes.orbit(views, size))
    targets = Targets(jnp.asarray(render_views(jax.tree.map(jnp.asarray, scenes.torus(count)), cameras)))
    model = load("tiny").views
    config = dataclasses.replace(
        model.view_settings("standard").fit,
        views_per_step=views,
        initial=count,
        capacity=count,
        hull=None,
        densify_until=0,
        steps=10_000,
    )
    features, _ = model.perceptual()
    state = init_state(jax.random.key(0), config, cameras, targets=targets)
    begun = time.perf_counter()
    state, _ = fit(state, targets, cameras, config, features=features, stop_step=WARM_UP)
    figures: dict[str, Any] = {"first_steps_s": time.perf_counter() - begun}
    begun = time.perf_counter()
    state, _ = fit(state, targets, cameras, config, features=features, stop_step=WARM_UP + repeats)
    jax.block_until_ready(state)
    return figures | {"ms_per_step": 1e3 * (time.perf_counter() - begun) / repeats, "peak_gib": peak_gib()}


def run(values: flags.FlagValues) -> None:
    """Times the steps and prints the line."""
    case = {"case": "fit", "gaussians": values.gaussians, "views": values.views, "size": values.size}
    sizes = values.gaussians, values.views, values.size
    Lines(values.out).measure([case], lambda case: case | time_steps(*sizes, values.repeats), dict)


PROGRAM = Program("benchmarks.fit_steps", define_flags, run, "nothing is printed")


if __name__ == "__main__":
    PROGRAM.start()
