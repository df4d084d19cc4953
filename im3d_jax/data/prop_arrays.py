"""Turntables of props as arrays: drawn by processes, and put through a function on the device."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.data.turntable import Turntable, TurntableSet
from im3d_jax.data.turntables import ORBIT_FRAMES
from im3d_jax.errors import InputError


def prop_vocabulary() -> list[str]:
    """All words that captions of props may have, sorted."""
    from im3d_jax.data.props import vocabulary

    return sorted(vocabulary())


def map_props(
    pack: str,
    split: str,
    count: int,
    *,
    size: int,
    frames: Sequence[int],
    transform: Callable[[jax.Array], jax.Array],
    chunk: int = 32,
    processes: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Draws props and puts each chunk through `transform`; what `turntables.map_orbits` does for Toybox.

    Args:
        pack: File of props, see docs/props.md.
        split: ``train`` or ``test``.
        count: Examples, by index from 0.
        size: Side of the pictures, pixels.
        frames: Frame numbers of an orbit of 16; evenly around it, from 0.
        transform: Jittable: rgba [B, F, size, size, 4] float32 in [0, 1], straight alpha, to anything with leading
            axis B.
        chunk: Examples of a device call; a last, shorter chunk is padded and cut, so one program is compiled.
        processes: That draw; 0 takes all cores but two, at least one.
        progress: Called with (examples done, examples in all).

    Returns:
        (transformed [N, ...] on the host, captions, elevations [N] radians).

    Raises:
        InputError: No pack, a pack that lacks props, no OpenGL, or frames that are not even.
    """
    from im3d_jax.data.props import PropProcesses, PropTurntables

    if not pack:
        raise InputError("data.pack is missing: the file of props (docs/props.md says how to write it)")
    if list(frames) != list(range(0, ORBIT_FRAMES, max(1, ORBIT_FRAMES // len(frames)))):
        raise InputError(f"frames {tuple(frames)}: props are drawn at 1, 2, 4, 8 or 16 frames evenly around the orbit")
    run = jax.jit(lambda rgba: transform(rgba.astype(jnp.float32) / 255.0))
    results, captions, elevations = [], [], []
    turntables = PropTurntables(pack, split, size=size, frames=len(frames), objects=count)
    with PropProcesses(turntables, processes or max(1, (os.cpu_count() or 1) - 2)) as drawn:
        ahead = _in_order(drawn, count, 2 * chunk)
        for start in range(0, count, chunk):
            items = list(itertools.islice(ahead, chunk))
            rgba = np.stack([item.rgba for item in items])
            short = chunk - len(items)
            padded = np.concatenate([rgba, np.repeat(rgba[-1:], short, 0)]) if short else rgba
            results.append(np.asarray(run(padded))[: len(items)])
            captions += [item.caption for item in items]
            elevations += [float(item.elevations[0]) for item in items]
            if progress is not None:
                progress(start + len(items), count)
    return np.concatenate(results), captions, np.asarray(elevations, np.float32)


def _in_order(turntables: TurntableSet, count: int, most: int) -> Iterator[Turntable]:
    """Turntables from 0 on, of which `most` are drawn or wait at any time."""
    numbers, pending = iter(range(count)), collections.deque[Future[Turntable]]()
    with ThreadPoolExecutor(min(most, 64)) as pool:
        try:
            for number in itertools.islice(numbers, most):
                pending.append(pool.submit(turntables.__getitem__, number))
            while pending:
                yield pending.popleft().result()
                for number in itertools.islice(numbers, 1):
                    pending.append(pool.submit(turntables.__getitem__, number))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
