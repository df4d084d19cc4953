"""How much each gaussian adds to each image: for occlusion and pruning."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splat.cameras import Cameras
from splat.gaussians import Gaussians
from splat.inputs import Inputs
from splat.render import count_pairs, render, round_capacity
from splat.typing import AnyArray


def blending_weights(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    capacity: int | None = None,
    active: Bool[AnyArray, "*scenes N"] | None = None,
) -> Float[Array, "*views N"]:
    """Sums each gaussian's blending weight alpha * transmittance over the pixels of each image.

    `Rendering.visible` says which gaussians touch an image; this takes into account what occludes them.

    Args:
        gaussians: N gaussians.
        cameras: V cameras.
        capacity: As for `render`: measured outside jit, required inside.
        active: [..., N] bool, as for `render`.

    Returns:
        [..., V, N] in pixels: 0 for hidden and unseen gaussians. The sum over the gaussians is the sum of
        `Rendering.alpha`.

    Raises:
        ValueError: The capacity is missing under jit or grad, or a shape does not fit.
    """
    inputs = Inputs(gaussians, cameras, active=active)
    if capacity is None:
        if inputs.traced:
            raise ValueError(
                "blending_weights got no capacity inside jit or grad; expected an integer: measure it outside with "
                "splat.count_pairs(gaussians, cameras)"
            )
        capacity = round_capacity(count_pairs(gaussians, cameras, active=active))

    # A pixel's features are weights times features: the gradient to a feature is its sum of weights.
    def total(marks: Float[Array, "*views N 1"]) -> Float[Array, ""]:
        out = render(gaussians, cameras, capacity=capacity, active=active, features=marks)
        assert out.features is not None
        return jnp.sum(out.features)

    marks = jnp.zeros((*inputs.scenes, len(cameras), len(gaussians), 1), jnp.float32)
    return jax.grad(total)(marks)[..., 0]
