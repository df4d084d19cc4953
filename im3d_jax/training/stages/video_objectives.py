"""Fine-tuning of SVD-like networks and of Emu Video's layout on turntables.

A batch holds latents and embeddings, which `encode` computes ahead of time.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.diffusion import network_input, network_time
from im3d_jax.diffusion import video_conditions as conditions
from im3d_jax.models import StableUNet
from im3d_jax.models.calls import apply
from im3d_jax.training.objectives import Denoising, Metrics, drop_conditions
from im3d_jax.weights.presets import Preset


@dataclasses.dataclass(frozen=True, eq=False)
class SvdObjective:
    """EDM's loss of a network that starts from a picture (SVD 2311.15127, SV3D 2403.12008).

    The picture's latent is concatenated to every frame, its CLIP embedding is the context. For classifier-free guidance
    examples lose both together.

    Batch: {"latents": [B, T, h, w, 4] scaled by the autoencoder's factor, in the network's order of frames;
    "condition": [B, h, w, 4] unscaled latent of the (noised) picture; "context": [B, L, D]; "vector": [B, n] or
    [B, T, n] scalar conditions}.

    Attributes:
        network: The UNet.
        denoising: With EDM's process and ``edm_v``.
        drop: Share of the examples without their picture; 0.1 to 0.2 is usual.
    """

    network: StableUNet
    denoising: Denoising
    drop: float = 0.1

    def __call__(self, params: dict[str, Any], batch: dict[str, Any], keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """See `Objective`."""
        lots, rest = _two(keys)
        kept = 1.0 - jax.vmap(lambda key: jax.random.bernoulli(key, self.drop))(lots).astype(jnp.float32)
        predict = self.predictor(params, batch, kept)
        errors, _ = self.denoising(predict, batch["latents"].astype(jnp.float32), rest)
        return errors, {}

    def predictor(self, params: dict[str, Any], batch: dict[str, Any], kept: jax.Array):
        """``predict(noised, times)`` of the network, the conditions of example b multiplied by `kept` [B]."""
        latent = batch["condition"].astype(jnp.float32) * kept[:, None, None, None]
        context = batch["context"].astype(jnp.float32) * kept[:, None, None]
        process = self.denoising.process

        def predict(noised: jax.Array, times: jax.Array) -> jax.Array:
            inside = conditions.concatenate_condition(network_input(noised, times, process), latent)
            return apply(self.network, params["unet"], inside, network_time(times, process), context, batch["vector"])

        return predict

    def fixed_error(
        self, params: dict[str, Any], batch: dict[str, Any], times: jax.Array, noise: jax.Array
    ) -> jax.Array:
        """The loss [B] at fixed times [B] and noise, all conditions kept: what evaluations compare."""
        predict = self.predictor(params, batch, jnp.ones(times.shape[0]))
        return self.denoising.error(predict, batch["latents"].astype(jnp.float32), times, noise)


@dataclasses.dataclass(frozen=True, eq=False)
class EmuObjective:
    """v-prediction at zero terminal SNR with a first frame and prompts (Emu Video 2311.10709, sections 3.2 and 3.3).

    Batch: {"latents": [B, T, h, w, z] scaled; "context_0": [B, L, D] of the first text encoder, "context_1" of the
    second}. Parameters: {"unet": ..., "empty": {"context_0": [L, D], ...}}, contexts of the empty prompt, held. The
    first frame, noised by nothing, is the condition of frame 0, with a mask channel that says whether it is given.

    Attributes:
        network: The UNet with `condition_channels` z + 1.
        denoising: With a zero-terminal-SNR process and ``v``.
        drop: Share of the examples that lose the prompt, the picture, and both, each.
    """

    network: StableUNet
    denoising: Denoising
    drop: float = 0.1

    def __call__(self, params: dict[str, Any], batch: dict[str, Any], keys: jax.Array) -> tuple[jax.Array, Metrics]:
        """See `Objective`."""
        lots, rest = _two(keys)
        no_prompt, no_image = drop_conditions(lots, self.drop)
        latents = batch["latents"].astype(jnp.float32)
        given = 1.0 - no_image.astype(jnp.float32)
        empty = params["empty"]
        contexts = tuple(jnp.where(no_prompt[:, None, None], empty[name], batch[name]) for name in sorted(empty))
        mask = jnp.broadcast_to(given[:, None, None, None], (*latents[:, 0].shape[:-1], 1))
        condition = jnp.concatenate([latents[:, 0] * given[:, None, None, None], mask], axis=-1)

        def predict(noised: jax.Array, times: jax.Array) -> jax.Array:
            # The networks count their noise levels by 1,000 timesteps.
            return apply(self.network, params["unet"], noised, 1000.0 * times - 1.0, contexts, condition=condition)

        errors, _ = self.denoising(predict, latents, rest)
        return errors, {}


def scalar_conditions(preset: Preset, elevations: np.ndarray, strength: float | None = None) -> np.ndarray:
    """The scalar conditions of SVD-like networks for turntables.

    Args:
        preset: Of the family.
        elevations: [B, T] radians, in orbit order.
        strength: Noise strength of the conditioning picture; the family's own without.

    Returns:
        [B, n] or, for SV3D_p, [B, T, 3] float32, in the network's order of frames.
    """
    strength = preset.noise_strength if strength is None else strength
    batch, frames = elevations.shape
    if "polar" in preset.vector:
        azimuths = np.broadcast_to(conditions.sv3d_orbit(frames)[None], elevations.shape)
        turned = np.roll(elevations, -1, 1) if preset.given_view == "last" else elevations
        return conditions.sv3d_pose_vector(turned, azimuths, strength=strength)
    if "motion_bucket" in preset.vector:
        return conditions.svd_vector(batch, strength=strength)
    return conditions.sv3d_vector(batch, strength=strength)


def _two(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    split = jax.vmap(jax.random.split)(keys)
    return split[:, 0], split[:, 1]
