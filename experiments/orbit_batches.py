"""Orbits of many pictures at once by SVD and SV3D, over a mesh of devices; the interface of `batches.BatchSampler`.

A row shows what `OrbitPipeline.draw_views` draws with that seed, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.batches import Drawn, Request, normals
from im3d_jax import parallel
from im3d_jax.diffusion import video_conditions
from im3d_jax.foreign import video
from im3d_jax.foreign.mattes import cut_out_views
from im3d_jax.weights import WeightsError


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
        self._quality = quality
        whole = parallel.replicated(mesh)
        self._unet, self._vae = (jax.device_put(model.parameters(part), whole) for part in ("unet", "vae"))

    def start(self, requests: Sequence[Request]) -> Callable[[], list[Drawn]]:
        """Starts a batch and returns what waits for its results.

        Args:
            requests: 1 to `size`, all with a picture.

        Raises:
            WeightsError: when it is waited for: the networks drew values that are no numbers.
        """
        if not 0 < len(requests) <= self._size or any(request.picture is None for request in requests):
            raise ValueError(f"expected 1 to {self._size} requests with pictures, got {len(requests)}")
        model = self._model
        rows = [*requests, *[requests[-1]] * (self._size - len(requests))]
        told = [model.conditions(row.picture, row.seed) for row in rows]
        given = self._place(jax.tree.map(lambda *parts: jnp.concatenate(parts), *told))
        keys = jnp.stack([jax.random.fold_in(jax.random.key(row.seed), video.VIEWS_STREAM) for row in rows])
        noise = self._place(normals(keys, model.latent_shape()[1:]))
        latents, count = model.sample_batch(self._unet, noise, given, self._quality)
        frames = model.decode_batch(self._vae, latents)

        def finish() -> list[Drawn]:
            held = np.asarray(frames)
            if not np.isfinite(held).all():
                raise WeightsError(f"{model.name} drew values that are no numbers: check its files, or load them again")
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
