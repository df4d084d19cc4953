"""Toybox turntables as arrays on the device: rendered, and encoded to latents, at the start of a run.

A run's set is a pure function of (split, indices, frames, autoencoder): nothing is stored on disk.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.data.toybox import Toybox, ToyObject, render_object, stack
from splat import orbit_cameras


ORBIT_FRAMES = 16


def _build(split: str, indices: Sequence[int]) -> tuple[ToyObject, list[str]]:
    toybox = Toybox(split)
    captions, objects = zip(*(toybox.item(i) for i in indices), strict=True)
    return stack(objects), list(captions)


def build_objects(
    split: str, indices: Sequence[int], chunk: int, workers: int = 0
) -> Iterator[tuple[ToyObject, list[str]]]:
    """Objects and captions of `indices` in order, `chunk` at a time (the last one may be shorter).

    Args:
        split: ``train`` or ``test``.
        indices: Sample numbers.
        chunk: Objects per piece.
        workers: Processes that build ahead; 0 builds in this one.
    """
    pieces = [list(indices[i : i + chunk]) for i in range(0, len(indices), chunk)]
    build = functools.partial(_build, split)
    if workers == 0:
        yield from map(build, pieces)
        return
    # Forking after the accelerator's runtime has started its threads can hang; fresh processes cannot.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(build, pieces)


def default_workers(objects: int) -> int:
    """Processes worth starting: none below a few thousand objects, else all cores but two (at most 28)."""
    return 0 if objects < 4000 else max(0, min(28, (os.cpu_count() or 1) - 2))


def render_orbit(
    toy: ToyObject, size: int, frames: Sequence[int] = range(ORBIT_FRAMES), azimuth_offset: float = 0.0
) -> jax.Array:
    """Frames of one object's turntable: [F, size, size, 4] float32, straight alpha.

    Args:
        toy: One object; its own elevation is used.
        size: Side of the pictures, pixels.
        frames: Frame numbers; frame i is seen from azimuth i * 22.5 degrees + `azimuth_offset` (radians).
        azimuth_offset: Turns the whole rig, for in-between views.
    """
    cameras = orbit_cameras(toy.elevation, views=ORBIT_FRAMES, width=size, height=size, azimuth_offset=azimuth_offset)
    if list(frames) != list(range(ORBIT_FRAMES)):
        keep = np.asarray(list(frames))
        cameras = dataclasses.replace(
            cameras, world_to_camera=cameras.world_to_camera[keep], intrinsics=cameras.intrinsics[keep]
        )
    return render_object(toy, cameras)


def map_orbits(
    split: str,
    indices: Sequence[int],
    *,
    size: int,
    frames: Sequence[int],
    transform: Callable[[jax.Array], jax.Array],
    chunk: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[jax.Array, list[str], np.ndarray]:
    """Renders turntables and puts each chunk through `transform`.

    Args:
        split, indices: Which samples; a last, shorter chunk is padded and cut, so one program is compiled.
        size: Side of the pictures, pixels.
        frames: Frame numbers to draw.
        transform: Jittable: rgba [B, F, size, size, 4] float32 to anything with leading axis B (parameters
            may be closed over; they are small).
        chunk: Objects per device call.
        progress: Called with (objects done, objects in all).

    Returns:
        (transformed [N, ...] on the device, captions, elevations [N] radians).
    """
    frames = tuple(frames)

    @jax.jit
    def run(objects: ToyObject) -> jax.Array:
        # One object at a time skips its empty slots, which is what counts on a CPU; side by side fills an accelerator.
        each = jax.lax.map if jax.default_backend() == "cpu" else lambda draw, toys: jax.vmap(draw)(toys)
        return transform(each(lambda toy: render_orbit(toy, size, frames), objects))

    results, captions, elevations = [], [], []
    for objects, words in build_objects(split, indices, chunk, default_workers(len(indices))):
        count = len(words)
        if count < chunk:
            objects = jax.tree.map(lambda a: np.concatenate([a, np.repeat(a[-1:], chunk - len(a), 0)]), objects)
        results.append(run(objects)[:count])
        captions += words
        elevations.append(objects.elevation[:count])
        if progress is not None:
            progress(len(captions), len(indices))
    return jnp.concatenate(results), captions, np.concatenate(elevations)


def to_bytes(rgba: jax.Array) -> jax.Array:
    """Float pictures in [0, 1] to uint8, halves up as in `images.files.to_bytes`; values outside are clipped."""
    return jnp.floor(jnp.clip(rgba, 0.0, 1.0) * 255.0 + 0.5).astype(jnp.uint8)


def box_fraction(rgba: np.ndarray, threshold: float = 0.5) -> float:
    """Longer side of the object's box over the image's side, for one [H, W, 4] picture; nan when empty."""
    rows, columns = np.nonzero(np.asarray(rgba)[..., 3] > threshold)
    if not len(rows):
        return math.nan
    return float(max(np.ptp(rows) + 1, np.ptp(columns) + 1) / max(rgba.shape[:2]))
