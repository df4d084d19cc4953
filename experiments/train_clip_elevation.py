"""Fits the head that estimates an orbit's elevation from CLIP features, with the user's own weights.

    python -m experiments.train_clip_elevation --model=DIR_OF_SV3D

The features are those of the image encoder that SV3D's or SVD's weights carry; no other part of them is read. The
encoder sees Toybox objects from four sides at random elevations, under the rig of SV3D's renders. The head is a ridge
regression in closed form, so that the same flags give the same file; the held-out objects are of Toybox's test split.
The head is written to --out, or to elevation_head/ beside the weights, where `im3d generate` and `im3d views` find it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from experiments.programs import Program
from im3d_jax import environment
from im3d_jax.data.toybox import ToyObject
from im3d_jax.data.turntables import ORBIT_FRAMES, build_objects, default_workers, render_orbit
from im3d_jax.errors import InputError, input_errors
from im3d_jax.models.clip import CLIPVision
from im3d_jax.number_flags import define_integer
from im3d_jax.paths import define_path
from im3d_jax.pipelines.clip_elevation import FRAMES, Head, fit_ridge, pooled_features, save_head
from im3d_jax.pipelines.residency import working_dtype
from im3d_jax.pipelines.sources import open_source
from im3d_jax.progress import ProgressPrinter, Report
from im3d_jax.weights.hub import find_model


# Radians: SV3D's static orbits were trained on -5 to 30 degrees; pictures from higher are common.
LOWEST, HIGHEST = math.radians(-10.0), math.radians(50.0)
CHUNK = 16  # objects rendered at once
SPLITS = ("train", "test")


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    define_path("model", None, "weights of SV3D or SVD: folder, file or hub id", flag_values=values)
    define_path("out", None, "file to write; by default beside the weights", flag_values=values)
    define_integer("objects", 2048, "objects to fit on", lower_bound=8, flag_values=values)
    define_integer("held_out", 256, "objects to measure on", lower_bound=1, flag_values=values)
    define_integer("side", 288, "of the renders, pixels", lower_bound=16, flag_values=values)
    define_integer("seed", 0, "of the elevations", lower_bound=0, flag_values=values)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _features(encoder: CLIPVision, params: dict, toys: ToyObject, side: int) -> jax.Array:
    frames = range(0, ORBIT_FRAMES, ORBIT_FRAMES // FRAMES)
    # As in `data.turntables`: one after the other skips empty slots on CPUs, side by side fills an accelerator.
    each = jax.lax.map if jax.default_backend() == "cpu" else lambda draw, toys: jax.vmap(draw)(toys)
    views = each(lambda toy: render_orbit(toy, side, frames), toys)
    return jax.lax.map(lambda one: pooled_features(encoder, params, one), views)


def measure_objects(
    encoder: CLIPVision,
    params: dict,
    split: str,
    indices: Sequence[int],
    *,
    side: int,
    seed: int,
    report: Report,
) -> tuple[np.ndarray, np.ndarray]:
    """Features of objects, each seen from an elevation of its own.

    Args:
        encoder: The image encoder.
        params: Its parameters.
        split: Of Toybox: ``train`` or ``test``.
        indices: N objects of it.
        side: Of the renders, pixels.
        seed: Of the elevations.
        report: Takes the progress.

    Returns:
        Features [N, D] and elevations [N] in radians.
    """
    count, rng = len(indices), np.random.default_rng([seed, SPLITS.index(split)])
    elevations = rng.uniform(LOWEST, HIGHEST, count).astype(np.float32)
    features: list[np.ndarray] = []
    for toys, words in build_objects(split, indices, CHUNK, default_workers(count)):
        done = CHUNK * len(features)
        toys = dataclasses.replace(toys, elevation=elevations[done : done + len(words)])
        # The last piece is filled up, so that one program is compiled.
        rows = np.minimum(np.arange(CHUNK), len(words) - 1)
        toys = jax.tree.map(functools.partial(np.take, indices=rows, axis=0), toys)
        features.append(np.asarray(_features(encoder, params, toys, side)))
        report(done + len(words), count, split)
    return np.concatenate(features)[:count], elevations


def fit_head(
    seen: tuple[np.ndarray, np.ndarray], unseen: tuple[np.ndarray, np.ndarray], encoder: str
) -> tuple[Head, str]:
    """Fits a head and measures it.

    Args:
        seen: Features [N, D] and elevations [N] in radians, see `measure_objects`.
        unseen: The same of held-out objects.
        encoder: See `Head`.

    Returns:
        The head, and a line on its error.

    Raises:
        InputError: The features do not tell the elevation better than a constant would.
    """
    weight, bias = fit_ridge(*seen)
    head = Head(weight, bias, encoder, LOWEST, HIGHEST, 0.0)
    features, truth = unseen
    error = float(np.abs(head(features) - truth).mean())
    constant = float(np.abs(np.median(seen[1]) - truth).mean())
    measured = (
        f"mean absolute error on {len(truth)} held-out objects: {math.degrees(error):.2f} degrees "
        f"(the constant guess: {math.degrees(constant):.2f})"
    )
    if not error < constant:
        raise InputError(f"{measured}: these features say nothing about the elevation; give more --objects")
    return dataclasses.replace(head, error=error), measured


def run(values: flags.FlagValues) -> None:
    """Fits, measures and writes the head.

    Raises:
        InputError: No model, one without an image encoder, or features that do not tell the elevation.
    """
    if not values.model:
        raise InputError("--model is missing; give the weights of SV3D or SVD whose image encoder is to be used")
    environment.start_jax()
    source = open_source(find_model(values.model))
    config = source.preset.image_encoder
    if config is None:
        raise InputError(f"--model={values.model} is {source.name}, which has no image encoder; give SV3D or SVD")
    params = source.load("encoder", working_dtype())
    path = pathlib.Path(values.out) if values.out else source.head_file
    progress, encoder = ProgressPrinter(), CLIPVision(config, working_dtype())
    shared = {"side": values.side, "seed": values.seed}
    with progress.stage("features") as report:
        seen = measure_objects(encoder, params, "train", range(values.objects), report=report, **shared)
        unseen = measure_objects(encoder, params, "test", range(values.held_out), report=report, **shared)
    head, measured = fit_head(seen, unseen, source.encoder_fingerprint())
    with input_errors(OSError):
        save_head(path, head)
    print(measured)
    progress.line(f"head of {source.name}, fitted on {values.objects} objects, in {path}")


PROGRAM = Program("train_clip_elevation", define_flags, run, "nothing is written")


if __name__ == "__main__":
    PROGRAM.start()
