"""A video network that starts from a text-to-image one: every frame is drawn as the picture network draws it.

As in Emu Video (arXiv 2311.10709, section 3.3) and SVD (arXiv 2311.15127, appendix D): spatial layers are taken over,
new layers start so that they add nothing, and new input channels start at zero.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from im3d_jax.errors import WeightsError
from im3d_jax.models.layers import KERNEL_INIT
from im3d_jax.models.stable_unet import StableUNetConfig
from im3d_jax.weights.names.networks import unet_shapes
from im3d_jax.weights.trees import flatten, unflatten


# The last layer of whatever adds to a stream: zero there is the identity, and its gradient is not zero.
_LAST = (".conv2", ".conv", "to_out.0", "net.2", "linear_2", "conv_in_condition")


def video_from_pictures(config: StableUNetConfig, pictures: dict, key: jax.Array) -> dict:
    """Parameters of a video UNet that equals a picture UNet on every frame.

    Args:
        config: The video network, ``blended`` or ``residual``, with the picture network's sizes; it may have more input
            channels, contexts and scalar conditions.
        pictures: Parameters of a network with `temporal="none"`, of Stable Diffusion for instance.
        key: For the new layers.

    Raises:
        WeightsError: The picture network has other sizes, or layers that the video network lacks.
    """
    shapes = unet_shapes(config)
    given = flatten(pictures)
    taken, flat = set(), {}
    for number, (name, leaf) in enumerate(flatten(shapes).items()):
        source = name.replace(".spatial_res_block.", ".")
        if source in given and "temporal_" not in name:
            taken.add(source)
            flat[name] = _fit(name, jnp.asarray(given[source]), leaf.shape)
        else:
            flat[name] = _new(name, leaf.shape, jax.random.fold_in(key, number))
    if left := sorted(given.keys() - taken):
        raise WeightsError(
            f"the picture network has {len(left)} parameters that the video network lacks ({', '.join(left[:3])}): "
            "their sizes must agree"
        )
    return unflatten(flat, shapes)


def _fit(name: str, value: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if name == "conv_in.kernel" and value.shape[2] < shape[2]:
        value = jnp.pad(value, [(0, 0), (0, 0), (0, shape[2] - value.shape[2]), (0, 0)])
    if value.shape != shape:
        raise WeightsError(f"{name} has shape {value.shape} in the picture network, expected {shape}: sizes must agree")
    return value


def _new(name: str, shape: tuple[int, ...], key: jax.Array) -> jax.Array:
    module, _, leaf = name.rpartition(".")
    if leaf == "scale":
        return jnp.ones(shape)
    if leaf == "mix_factor":
        return jnp.full(shape, 0.5)
    if leaf == "bias" or module.endswith(_LAST):
        return jnp.zeros(shape)
    return KERNEL_INIT(key, shape)
