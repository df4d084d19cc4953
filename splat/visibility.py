"""How much each gaussian adds to each image: what is hidden, and what may go."""

import jax
import jax.numpy as jnp

from splat.cameras import Cameras
from splat.gaussians import Gaussians
from splat.inputs import leading_axes
from splat.render import count_pairs, render, round_capacity


def blending_weights(
    gaussians: Gaussians, cameras: Cameras, *, capacity: int | None = None, active: jax.Array | None = None
) -> jax.Array:
    """Sum over the pixels of each gaussian's blending weight alpha * transmittance.

    `Rendering.visible` says which gaussians touch an image; this also counts what stands in front of them.

    Args:
      gaussians: N gaussians.
      cameras: V cameras.
      capacity: as for `render`: measured outside jit, demanded inside.
      active: [N] bool.

    Returns:
      [..., V, N] in pixels: 0 for hidden and unseen gaussians. The sum over the gaussians is the sum of
      `Rendering.alpha`.
    """
    if capacity is None:
        leaves = jax.tree.leaves((gaussians, cameras, active))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            raise ValueError(
                "blending_weights got no capacity inside jit; expected an integer: measure it outside with "
                "splat.count_pairs(gaussians, cameras)"
            )
        capacity = round_capacity(count_pairs(gaussians, cameras, active=active))
    lead = leading_axes(gaussians, cameras)

    # A pixel's features are weights times features: the gradient to a feature is its sum of weights.
    def total(marks: jax.Array) -> jax.Array:
        out = render(gaussians, cameras, capacity=capacity, active=active, features=marks)
        return jnp.sum(out.features)

    return jax.grad(total)(jnp.zeros((*lead, len(cameras), len(gaussians), 1), jnp.float32))[..., 0]
