"""Foreign video models of true size with random weights, and one that shows an object in place of noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import scenes
from im3d_jax.errors import InputError
from im3d_jax.output.renders import render_views
from im3d_jax.pipelines import Drawn, ViewTask, svd
from im3d_jax.pipelines.base import Drawing
from im3d_jax.reconstruction.orbit_search import rig_cameras
from im3d_jax.weights.encoders import encoder_shapes
from im3d_jax.weights.names.networks import autoencoder_shapes, unet_shapes
from im3d_jax.weights.presets import Preset


ELEVATION = math.radians(20.0)  # of the torus's views


class RandomSource:
    """Random parameters of a preset's networks; see `pipelines.sources.Source`.

    Args:
        preset: Of a family.
    """

    def __init__(self, preset: Preset):
        self.preset, self.name, self.remark = preset, f"{preset.name} (random)", ""

    def sha256(self) -> str:
        """No hash: there are no files."""
        return "random"

    def sizes(self) -> dict[str, tuple[int, int]]:
        """See `Source`."""
        parts = {part: jax.tree.leaves(self._shapes(part)) for part in ("unet", "vae", "encoder")}
        return {part: (len(leaves), sum(math.prod(leaf.shape) for leaf in leaves)) for part, leaves in parts.items()}

    def _shapes(self, part: str) -> dict:
        if part == "encoder":
            return encoder_shapes(self.preset.image_encoder)
        return unet_shapes(self.preset.unet) if part == "unet" else autoencoder_shapes(self.preset.autoencoder)

    def load(self, part: str, dtype: Any) -> dict:
        """Parameters of ``unet``, ``vae`` or ``encoder``: normal kernels that keep activations near 1, biases of 0.

        All are slices of one row of numbers: drawing on the device would compile a program for each of many shapes.
        """
        leaves, tree = jax.tree.flatten_with_path(self._shapes(part))
        rng, made = np.random.default_rng(0), []
        numbers = rng.standard_normal(max(math.prod(leaf.shape) for _, leaf in leaves) + 1000, np.float32)
        for path, leaf in leaves:
            count, start = math.prod(leaf.shape), rng.integers(1000)
            if len(leaf.shape) > 1:
                kernel = numbers[start : start + count].reshape(leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))
            else:
                kernel = np.full(leaf.shape, float(path[-1].key == "scale"))
            made.append(jnp.asarray(kernel.astype(dtype)))
        return jax.tree.unflatten(tree, made)


class ShownTorus(svd.OrbitModel):
    """Does all the drawing and hands out an orbit of a torus: the fit then works on an object, not on noise."""

    def draw_views(self, tasks: Sequence[ViewTask], *arguments: Any, **named: Any) -> Drawing:
        """See `OrbitModel`."""
        return self._shown(super().draw_views(tasks, *arguments, **named), tasks)

    def refine_views(
        self, renders: Sequence[np.ndarray], tasks: Sequence[ViewTask], *arguments: Any, **named: Any
    ) -> Drawing:
        """See `OrbitModel`."""
        return self._shown(super().refine_views(renders, tasks, *arguments, **named), tasks)

    def _shown(self, drawing: Drawing, tasks: Sequence[ViewTask]) -> Drawing:
        def finish() -> list[Drawn | InputError]:
            rows = zip(drawing(), tasks, strict=True)
            return [row if isinstance(row, InputError) else self._torus(row, task) for row, task in rows]

        return finish

    def _torus(self, drawn: Drawn, task: ViewTask) -> Drawn:
        rig, side = svd.RIG, self.image_size
        cameras = rig_cameras(
            ELEVATION, "ccw", views=self.num_views, distance=rig.distance, fov=math.radians(rig.fov_deg), width=side,
            height=side,
        )  # fmt: skip
        views = render_views(scenes.torus(20_000), cameras)
        views[0] = task.picture
        return dataclasses.replace(drawn, images=views)
