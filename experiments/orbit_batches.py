"""Orbits of many pictures at once by SVD and SV3D, over a mesh of devices; the interface of `batches.BatchSampler`.

A row shows what `OrbitPipeline.draw_views` draws with that seed, to rounding. This is that method for a batch, and so
takes its parts, the private ones too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.batches import Drawn, Request, normals
from im3d_jax import parallel
from im3d_jax.diffusion import (
    Guidance,
    StepLevels,
    init_state,
    initial_sample,
    network_evaluations,
    schedule,
    time_grid,
    video_conditions,
)
from im3d_jax.foreign import networks, recipes, video
from im3d_jax.foreign.mattes import cut_out_views


class OrbitBatchSampler:
    """Draws batches with a foreign video model.

    Args:
        model: an `OrbitPipeline` whose memory preset keeps its networks on the device.
        quality: preset of the sampling.
        mesh: of `parallel.make_mesh`; rows are split over it, the weights are on each of its devices.
        size: rows of a batch, a multiple of the mesh's devices; fewer requests are filled up.
    """

    def __init__(self, model: video.OrbitPipeline, quality: str, mesh: Mesh, size: int):
        if size < 1 or size % mesh.size:
            raise ValueError(f"a batch of {size} cannot be split evenly over {mesh.size} devices")
        self._model, self._size, self._rows = model, size, parallel.batch_sharding(mesh)
        self._sampling = recipes.sampling(model.preset.steps, quality)
        whole = parallel.replicated(mesh)
        self._unet, self._vae = (jax.device_put(model._parameters(part), whole) for part in ("unet", "vae"))

    def start(self, requests: Sequence[Request]) -> Callable[[], list[Drawn]]:
        """Starts a batch and returns what waits for its results.

        Args:
            requests: 1 to `size`, all with a picture.
        """
        if not 0 < len(requests) <= self._size or any(request.picture is None for request in requests):
            raise ValueError(f"expected 1 to {self._size} requests with pictures, got {len(requests)}")
        model, preset = self._model, self._model.preset
        rows = [*requests, *[requests[-1]] * (self._size - len(requests))]
        told = [model._conditions(row.picture, row.seed) for row in rows]
        given = self._place(jax.tree.map(lambda *parts: jnp.concatenate(parts), *told))
        keys = jnp.stack([jax.random.fold_in(jax.random.key(row.seed), video.VIEWS_STREAM) for row in rows])
        x = initial_sample(self._place(normals(keys, model._shape()[1:])), 1.0, video.PROCESS)
        levels = schedule(time_grid(self._sampling.views, last=0.0), video.PROCESS)
        latents = _all_steps(model._unet, self._sampling.solver, self._unet, x, levels, given, model._scales)
        latents = latents / preset.autoencoder.scaling_factor
        at_once = recipes.frames_at_once(preset.frames, model.memory.frames_at_once)
        frames = networks._decode(model._autoencoder._decoder, self._vae, latents, at_once)
        count = network_evaluations(Guidance(image=2.0), self._sampling.views)

        def finish() -> list[Drawn]:
            held = np.asarray(frames)
            return [self._drawn(request, pictures, count) for request, pictures in zip(requests, held, strict=False)]

        return finish

    def _drawn(self, request: Request, pictures: np.ndarray, count: int) -> Drawn:
        ordered = video_conditions.from_network_order(pictures, self._model.preset.given_view, axis=0)
        views, uneven = cut_out_views(np.asarray(ordered))
        views[0] = request.picture
        said = f"{uneven} of {len(views)} views have no plain background; cut out by distance to white"
        return Drawn(request.picture, views, (0, count), (said,) if uneven else ())

    def _place(self, tree: Any) -> Any:
        return jax.device_put(tree, self._rows)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _all_steps(network, solver: str, params: dict, x, levels: StepLevels, given: dict, scales) -> jax.Array:
    """The samples at the end of a schedule."""

    def step(state, row):
        return video._step(network, solver, True, params, state, row, given, scales), None

    return jax.lax.scan(step, init_state(x), levels)[0].x
