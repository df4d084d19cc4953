"""Fits the head that estimates an orbit's elevation from CLIP features, with the user's own weights.

    python -m experiments.train_clip_elevation --model=DIR_OF_SV3D

The image encoder is the one that SV3D's or SVD's weights carry; nothing else of them is read. It sees Toybox objects
from four sides at random elevations, under the rig of SV3D's renders; the head is a ridge regression in closed form, so
the same flags give the same file. The held-out objects are of Toybox's test split. Written to elevation_head/
beside the weights, or to --out; `im3d generate` and `im3d views` take it from there.
"""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags

from experiments.programs import flags_parser, run_program
from im3d_jax.cli import common
from im3d_jax.errors import InputError, input_errors
from im3d_jax.data.turntables import ORBIT_FRAMES, build_objects, default_workers, render_orbit
from im3d_jax.foreign.elevation import FRAMES, Head, fit_ridge, pooled_features, save_head
from im3d_jax.foreign.layouts import head_file
from im3d_jax.foreign.networks import working_dtype
from im3d_jax.foreign.sources import open_source
from im3d_jax.models.clip import CLIPVision
from im3d_jax.output.progress import ProgressPrinter, Report
from im3d_jax.errors import WeightsError


# Radians: SV3D's static orbits were trained on -5 to 30 degrees; pictures from higher are common.
LOWEST, HIGHEST = math.radians(-10.0), math.radians(50.0)
CHUNK = 16  # objects rendered at once
SPLITS = ("train", "test")


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    flags.DEFINE_string("model", None, "weights of SV3D or SVD: folder, file or hub id", flag_values=values)
    flags.DEFINE_string("out", None, "file to write; by default beside the weights", flag_values=values)
    flags.DEFINE_integer("objects", 2048, "objects to fit on", lower_bound=8, flag_values=values)
    flags.DEFINE_integer("held_out", 256, "objects to measure on", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("side", 288, "of the renders, pixels", lower_bound=16, flag_values=values)
    flags.DEFINE_integer("seed", 0, "of the elevations", lower_bound=0, flag_values=values)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _features(encoder: CLIPVision, params: dict, toys, side: int) -> jax.Array:
    frames = range(0, ORBIT_FRAMES, ORBIT_FRAMES // FRAMES)
    # As in `data.turntables`: one after the other skips empty slots on CPUs, side by side fills an accelerator.
    each = jax.lax.map if jax.default_backend() == "cpu" else lambda draw, toys: jax.vmap(draw)(toys)
    views = each(lambda toy: render_orbit(toy, side, frames), toys)
    return jax.lax.map(lambda one: pooled_features(encoder, params, one), views)


def measure_objects(
    encoder: CLIPVision, params: dict, split: str, count: int, *, side: int, seed: int, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] of a split's first objects, each from an elevation of its own, and these [N] in radians."""
    elevations = np.random.default_rng([seed, SPLITS.index(split)]).uniform(LOWEST, HIGHEST, count).astype(np.float32)
    features: list[np.ndarray] = []
    for toys, words in build_objects(split, range(count), CHUNK, default_workers(count)):
        done = CHUNK * len(features)
        toys = toys.replace(elevation=elevations[done : done + len(words)])
        # The last piece is filled up, so that one program is compiled.
        rows = np.minimum(np.arange(CHUNK), len(words) - 1)
        toys = jax.tree.map(functools.partial(np.take, indices=rows, axis=0), toys)
        features.append(np.asarray(_features(encoder, params, toys, side)))
        report(done + len(words), count, split)
    return np.concatenate(features)[:count], elevations


def run(values: flags.FlagValues) -> None:
    """Fits, measures and writes the head.

    Raises:
        InputError: no model, one without an image encoder, or features that do not tell the elevation.
    """
    if not values.model:
        raise InputError("--model is missing; give the weights of SV3D or SVD whose image encoder is to be used")
    common.start_jax()
    with input_errors(WeightsError):
        source = open_source(values.model)
        config = source.preset.image_encoder
        if config is None:
            raise InputError(f"--model={values.model} is {source.name}, which has no image encoder; give SV3D or SVD")
        params = source.load("encoder", working_dtype())
        fingerprint = source.encoder_fingerprint()
    path = pathlib.Path(values.out) if values.out else head_file(source.checkpoint.path)
    progress, encoder = ProgressPrinter(), CLIPVision(config, working_dtype())
    shared = {"side": values.side, "seed": values.seed}
    with progress.stage("features") as report:
        features, elevations = measure_objects(encoder, params, "train", values.objects, report=report, **shared)
        unseen, truth = measure_objects(encoder, params, "test", values.held_out, report=report, **shared)
    weight, bias = fit_ridge(features, elevations)
    head = Head(weight, bias, fingerprint, LOWEST, HIGHEST, 0.0)
    error = float(np.abs(head(unseen) - truth).mean())
    constant = float(np.abs(np.median(elevations) - truth).mean())
    measured = (
        f"mean absolute error on {len(truth)} held-out objects: {math.degrees(error):.2f} degrees "
        f"(the constant guess: {math.degrees(constant):.2f})"
    )
    if not error < constant:
        raise InputError(f"{measured}: these features say nothing about the elevation; give more --objects")
    with input_errors(OSError):
        save_head(path, Head(weight, bias, fingerprint, LOWEST, HIGHEST, error))
    print(measured)
    progress.line(f"head of {source.name}, fitted on {len(features)} objects, in {path}")


parse_flags = flags_parser("train_clip_elevation")


def main(argv: Sequence[str]) -> int:
    """Returns 0, 2 for a wrong input (one line on stderr), 130 after Ctrl-C."""
    return run_program("train_clip_elevation", lambda: run(flags.FLAGS), argv, "nothing is written")


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main, flags_parser=parse_flags)
