"""What stands between a sampler's samples and a foreign network: input scaling and the network's own time.

Source: Karras et al. 2206.00364, table 1 and eq. 7: D(x; sigma) = c_skip x + c_out F(c_in x; c_noise). SVD and SV3D
take the velocity form with unit data variance (Stability AI's ``VScalingWithEDMcNoise``); its output side is the kind
``edm_v`` of ``convert_prediction``, so that a denoiser needs only the input side from here.
"""

from collections.abc import Callable
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from im3d_jax.diffusion.guidance import Network
from im3d_jax.diffusion.process import DiscreteScaledLinear, Karras, NoiseProcess, ScaledLinear, expand
from im3d_jax.typing import AnyArray, LeafArray, Placeholder, Times


@flax.struct.dataclass
class Scalings:
    """The four scalings of an EDM network; all of sigma's shape."""

    skip: Float[LeafArray, "*times"] | Placeholder
    """c_skip."""
    out: Float[LeafArray, "*times"] | Placeholder
    """c_out."""
    input: Float[LeafArray, "*times"] | Placeholder
    """c_in."""
    noise: Float[LeafArray, "*times"] | Placeholder
    """c_noise = ln(sigma) / 4: the network's time."""


def edm_scalings(sigma: Times, *, sigma_data: float = 1.0, form: Literal["edm", "v"] = "v") -> Scalings:
    """Scalings of an EDM network at noise scale ``sigma`` (alpha = 1).

    Args:
        sigma: Any shape, positive.
        sigma_data: Standard deviation of the data: 1 in SVD and SV3D, 0.5 in EDM's own networks.
        form: Sign of c_out: ``v`` is negative (the network's output is a velocity), ``edm`` positive.
    """
    sigma = jnp.asarray(sigma)
    sigma = sigma.astype(jnp.promote_types(sigma.dtype, jnp.float32))
    power = sigma**2 + sigma_data**2
    out = sigma * sigma_data / jnp.sqrt(power)
    return Scalings(sigma_data**2 / power, -out if form == "v" else out, 1 / jnp.sqrt(power), 0.25 * jnp.log(sigma))


def network_input(x: Float[AnyArray, "*shape"], t: Times, process: NoiseProcess) -> Float[Array, "*shape"]:
    """Samples ``[B, …]`` scaled to unit variance, x / sqrt(alpha² + sigma²): unchanged if variance-preserving."""
    level = process.level(t)
    working = jnp.promote_types(x.dtype, jnp.float32)
    norm = jnp.sqrt(level.alpha**2 + level.sigma**2).astype(working)
    return (jnp.asarray(x, working) / expand(norm, x)).astype(x.dtype)


def network_time(t: Times, process: NoiseProcess) -> Float[Array, "*times"]:
    """The network's time at ``t``: ln(sigma) / 4 for ``Karras``, the timestep -1..N-1 for the scaled-linear schedules.

    Raises:
        TypeError: For a process on which no foreign network was trained.
    """
    if isinstance(process, Karras):
        return -0.25 * process.log_snr(t)
    if isinstance(process, DiscreteScaledLinear):
        return process.timestep(t)
    if isinstance(process, ScaledLinear):
        t = jnp.asarray(t)
        return t.astype(jnp.promote_types(t.dtype, jnp.float32)) * process.steps - 1
    raise TypeError(
        f"{type(process).__name__} has no network time: expected Karras, DiscreteScaledLinear or ScaledLinear"
    )


def precondition(unet: Callable[[jax.Array, jax.Array], jax.Array], process: NoiseProcess) -> Network:
    """A ``network(x, t, index)`` for ``guided_denoiser`` out of ``unet(x scaled, time scalar)``."""

    def network(x, t, index):
        del index
        return unet(network_input(x, t, process), network_time(t, process))

    return network
