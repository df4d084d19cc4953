"""Views of many objects at once: batches of equal size over a mesh of devices, each row with the noise of its seed.

A row shows what `Pipeline.draw_image` and `Pipeline.draw_views` draw with that seed, to rounding.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import measure
from im3d_jax import parallel, pipeline
from im3d_jax.diffusion import network_evaluations


@dataclasses.dataclass(frozen=True)
class Request:
    """What is drawn in one row.

    Attributes:
        prompt: in words, or None.
        picture: [H, W, 4] prepared first view, or None to draw it from the prompt.
        seed: of its noise.
    """

    prompt: str | None
    picture: np.ndarray | None
    seed: int

    @property
    def kind(self) -> tuple[bool, bool]:
        """Rows of one batch must agree in this: whether a prompt guides, whether the picture is given."""
        return self.prompt is not None, self.picture is not None


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Views of one object.

    Attributes:
        picture: [H, W, 4] the first view, as it comes back from an 8-bit file.
        views: [T, H, W, 4] in [0, 1], straight alpha.
        evaluations: network evaluations of the picture (0 for a given one) and of the views.
        said: lines for the user.
    """

    picture: np.ndarray
    views: np.ndarray
    evaluations: tuple[int, int]
    said: tuple[str, ...] = ()


class BatchSampler:
    """Draws batches with a model of this project.

    Args:
        model: a `Pipeline`.
        quality: preset of the sampling.
        mesh: of `parallel.make_mesh`; rows are split over it, the weights are on each of its devices.
        size: rows of a batch, a multiple of the mesh's devices; fewer requests are filled up.

    Raises:
        ValueError: the rows cannot be split evenly.
    """

    def __init__(self, model: pipeline.Pipeline, quality: str, mesh: Mesh, size: int):
        if size < 1 or size % mesh.size:
            raise ValueError(f"a batch of {size} cannot be split evenly over {mesh.size} devices")
        self._model = copy.copy(model)
        self._model.params = jax.device_put(model.params, parallel.replicated(mesh))
        self._sampling, self._mesh, self._size = pipeline.QUALITIES[quality], mesh, size
        self._rows = parallel.batch_sharding(mesh)

    def start(self, requests: Sequence[Request]) -> Callable[[], list[Drawn]]:
        """Starts a batch and returns what waits for its results.

        Args:
            requests: 1 to `size`, all of one kind.
        """
        kinds = {request.kind for request in requests}
        if len(kinds) != 1 or not 0 < len(requests) <= self._size:
            raise ValueError(f"expected 1 to {self._size} requests of one kind, got {len(requests)} of {len(kinds)}")
        prompted, given = kinds.pop()
        rows = [*requests, *[requests[-1]] * (self._size - len(requests))]
        tokens = self._place(self._model.bundle.tokenizer([row.prompt or "" for row in rows]))
        if given:
            pictures, first = self._place(np.stack([row.picture for row in rows])), 0
        else:
            pictures, first = self._pictures(rows, tokens)
        views, count = self._views(rows, tokens, pictures, prompted)

        def finish() -> list[Drawn]:
            stored, drawn = np.asarray(pictures), np.array(views)
            drawn[:, 0] = stored
            return [Drawn(stored[i], drawn[i], (first, count)) for i in range(len(requests))]

        return finish

    def _pictures(self, rows: Sequence[Request], tokens: jax.Array) -> tuple[jax.Array, int]:
        sampling = self._sampling.image
        noise = self._noise(rows, pipeline.IMAGE_STREAM, 1)
        conditions = self._model.conditions_of_tokens(tokens)
        latents = self._model.sample_batch(noise, conditions, sampling, temporal=False, prompt=True)
        pictures = as_stored(self._model.decode(latents[:, 0]))
        return pictures, network_evaluations(sampling.guidance(False, True), sampling.steps)

    def _views(
        self, rows: Sequence[Request], tokens: jax.Array, pictures: jax.Array, prompted: bool
    ) -> tuple[jax.Array, int]:
        sampling, frames = self._sampling.views, self._model.num_views
        noise = self._noise(rows, pipeline.VIEWS_STREAM, frames)
        conditions = self._model.conditions_of_tokens(tokens, self._model.encode(pictures))
        latents = self._model.sample_batch(noise, conditions, sampling, temporal=True, prompt=prompted)
        views = self._model.decode(latents.reshape(-1, *latents.shape[2:]))
        guidance = sampling.guidance(True, prompted)
        return views.reshape(-1, frames, *views.shape[1:]), network_evaluations(guidance, sampling.steps)

    def _noise(self, rows: Sequence[Request], stream: int, frames: int) -> jax.Array:
        config = self._model.config
        shape = (frames, config.latent_size, config.latent_size, config.autoencoder.latent_channels)
        keys = jnp.stack([jax.random.fold_in(jax.random.key(row.seed), stream) for row in rows])
        return self._place(normals(keys, shape))

    def _place(self, array: Any) -> jax.Array:
        return jax.device_put(array, self._rows)


@functools.partial(jax.jit, static_argnums=1)
def normals(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal noise [B, *shape], each row as its key of `keys` [B] gives it alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


@jax.jit
def as_stored(images: jax.Array) -> jax.Array:
    """Pictures in [0, 1] as they come back from 8-bit PNG files, rounded as `output.images.to_bytes` does."""
    return jnp.floor(jnp.clip(images, 0.0, 1.0) * 255.0 + 0.5) / 255.0


class OneByOne:
    """Draws with models that have no batches of their own; the interface of `BatchSampler`."""

    def __init__(self, model: Any, quality: str):
        self._model, self._quality = model, quality

    def start(self, requests: Sequence[Request]) -> Callable[[], list[Drawn]]:
        """Draws the requests and returns what gives them."""
        drawn = [self._draw(request) for request in requests]
        return lambda: drawn

    def _draw(self, request: Request) -> Drawn:
        drawing = {"seed": request.seed, "quality": self._quality, "progress": None}
        picture, first = request.picture, 0
        if picture is None:
            picture, first = self._model.draw_image(request.prompt, **drawing)
            picture = measure.as_stored(picture)
        views, count = self._model.draw_views(picture, request.prompt, **drawing)
        return Drawn(picture, views, (first, count), tuple(self._model.said))


def in_batches(items: Iterable[Any], kind: Callable[[Any], Any], size: int) -> list[list[Any]]:
    """Cuts items into batches of at most `size` whose items agree in `kind`; order is kept within a kind."""
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(kind(item), []).append(item)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]


def one_ahead(batches: Iterable[Any], start: Callable[[Any], Callable[[], Any]]) -> Iterator[tuple[Any, Any]]:
    """(batch, results) in order; the next batch is under way on the devices while one is looked at."""
    waiting = None
    for batch in batches:
        finish = start(batch)
        if waiting is not None:
            yield waiting[0], waiting[1]()
        waiting = batch, finish
    if waiting is not None:
        yield waiting[0], waiting[1]()
