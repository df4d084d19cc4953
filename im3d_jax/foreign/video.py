"""Orbits by SVD-like networks: picture to views, and views back through the model, with `pipeline.Pipeline`'s methods.

Pictures are [H, W, 4] and views [T, H, W, 4], numpy float32 in [0, 1] with straight alpha, view 0 the given one; the
networks see them on white and in their own order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.diffusion import (
    Guidance,
    Karras,
    add_noise,
    dpmpp_2m_step,
    euler_step,
    frame_guided_denoiser,
    frame_scales,
    init_state,
    initial_sample,
    network_evaluations,
    precondition,
    sample_loop,
    sampler_step,
    schedule,
    stack_conditions,
    time_grid,
)
from im3d_jax.diffusion import video_conditions as conditions
from im3d_jax.foreign import recipes
from im3d_jax.foreign.elevation import Head, find_head, pooled_features
from im3d_jax.foreign.mattes import cut_out_views
from im3d_jax.foreign.memory import choose as choose_memory
from im3d_jax.foreign.networks import ChunkedAutoencoder, Parameters, unet_of, working_dtype
from im3d_jax.foreign.sources import Source, open_source
from im3d_jax.models.clip import CLIPVision
from im3d_jax.models.clip_images import condition_pixels
from im3d_jax.models.ssim import composite
from im3d_jax.models.stable_unet import StableUNet
from im3d_jax.reconstruction import FitConfig, orbit_search
from im3d_jax.weights.encoders import encoder_network
from im3d_jax.weights.trees import WeightsError


# Streams of the seed, as `pipeline`'s: no two stages share noise.
VIEWS_STREAM, REFINE_STREAM, CONDITION_STREAM, ORBIT_STREAM = 1, 2, 5, 6
PROCESS = Karras()
SOLVERS = {"euler": euler_step, "dpmpp": dpmpp_2m_step}


class OrbitPipeline:
    """A foreign video model made ready to draw orbits.

    Args:
        source: Parameters and their preset.
        memory: What is done at once.
        elevation: Of the cameras in radians where it is known; SV3D_p is told it, and without it the rig's start.
        head: Estimates the elevation of views from the encoder's features, where the search shall start there.

    Attributes:
        name: Family and layout.
        remark: A line for the user on how the weights were read; may be empty.
        image_size: Side of pictures and views, pixels: the networks' height, as orbits are square.
        num_views: Frames of an orbit.
        target_fraction: Longer side of the prepared object's box over the picture's.
        recipe: Rig, refinement and fit.
        memory: What is done at once.
        features: None: what the fit compares is the caller's choice.
        said: Lines for the user about the last drawing.
    """

    features = None
    perceptual_name = "none"

    def __init__(
        self, source: Source, memory: recipes.Memory, *, elevation: float | None = None, head: Head | None = None
    ):
        preset = source.preset
        self.preset, self.memory = preset, memory
        self.recipe = recipes.RECIPES[preset.name]
        self.name, self.remark = source.name, source.remark
        self.image_size, self.num_views = preset.height, preset.frames
        self.target_fraction = self.recipe.target_fraction
        self.said: list[str] = []
        self._head = head
        self._elevation = math.radians(self.recipe.rig.elevation_deg) if elevation is None else elevation
        dtype = working_dtype()
        self._parameters = Parameters(source, dtype, memory.keep)
        self._unet = unet_of(preset, dtype)
        self._autoencoder = ChunkedAutoencoder(preset, self._parameters, memory, dtype)
        self._encoder = encoder_network(preset.image_encoder, dtype)
        self._scales = frame_scales(preset.guidance, preset.frames, preset.guidance_low, preset.guidance_high)

    def unknown_words(self, prompt: str) -> list[str]:
        """None: the networks read no prompts."""
        return []

    def lost_text(self, prompt: str) -> str:
        """None: the networks read no prompts."""
        return ""

    def vocabulary(self) -> dict[str, list[str]]:
        """None: the networks read no prompts."""
        return {}

    def draw_views(
        self,
        image,
        prompt: str | None,
        *,
        seed: int,
        quality: str = "standard",
        progress: Callable[[int, int, str], Any] | None = None,
    ):
        """Draws the orbit whose first view is `image`.

        Args:
            image: [H, W, 4] prepared picture.
            prompt: Not read by these networks.
            seed, quality: All that is random, and how many steps.
            progress: Called with (steps done, all steps, a note).

        Returns:
            (views [T, H, W, 4], network evaluations); view 0 is `image` itself.
        """
        if image is None:
            raise ValueError("a video model of this kind needs an image to start from")
        sampling = recipes.sampling(self.preset.steps, quality)
        key = jax.random.fold_in(jax.random.key(seed), VIEWS_STREAM)
        given = self.conditions(image, seed)
        noise = jax.random.normal(key, self.latent_shape())
        x = initial_sample(noise, 1.0, PROCESS)
        grid = time_grid(sampling.views, last=0.0)
        return self._drawn(x, grid, sampling.solver, given, image, progress, "views")

    def refine(
        self,
        renders,
        image,
        prompt: str | None,
        *,
        round: int,
        seed: int,
        quality: str = "standard",
        progress: Callable[[int, int, str], Any] | None = None,
    ):
        """Noises renders of the orbit part-way and denoises them under the original picture.

        IM-3D (arXiv 2402.08682), section 3.4; the level is `Recipe.refine_sigmas`.

        Args:
            renders: [T, H, W, 4] renders of the fitted asset.
            image: [H, W, 4] the conditioning picture.
            prompt: Not read by these networks.
            round: 1 for the first refinement; each round has noise of its own.
            seed, quality, progress: See `draw_views`.

        Returns:
            (views [T, H, W, 4] with view 0 the picture, network evaluations).
        """
        sampling = recipes.sampling(self.preset.steps, quality)
        sigmas = self.recipe.refine_sigmas
        sigma = sigmas[min(round, len(sigmas)) - 1]
        start = float(PROCESS.t_of_lambda(-math.log(sigma)))
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), REFINE_STREAM), round)
        given = self.conditions(image, seed)
        clean = self._autoencoder.encode(composite(jnp.asarray(renders))) * self.preset.autoencoder.scaling_factor
        clean = conditions.to_network_order(clean[None], self.preset.given_view)
        x = add_noise(clean, jax.random.normal(key, clean.shape), start, PROCESS)
        grid = time_grid(sampling.refine, start=start, last=0.0)
        return self._drawn(x, grid, sampling.solver, given, image, progress, f"refine {round}")

    def find_orbit(
        self,
        views,
        *,
        seed: int,
        elevation: float | None = None,
        direction: str = "auto",
        progress: Callable[[int, int, str], Any] | None = None,
    ) -> orbit_search.Orbit:
        """Elevation and direction of drawn views [T, H, W, 4], those that are not given fitted; see `orbits`.

        With a head, the fit starts at its estimate and keeps within its reach; without, at the rig's elevation.
        """
        rig, reach = self.recipe.rig, None
        direction = rig.direction if direction == "auto" else direction
        start = self._elevation if elevation is None else elevation
        if elevation is None and self._head is not None:
            features = pooled_features(self._encoder, self._parameters("encoder"), jnp.asarray(views))
            start, reach = float(self._head(np.asarray(features))), self._head.reach
            self._parameters.release("encoder")
        return orbit_search.find_orbit(
            np.asarray(views),
            elevation=start,
            reach=reach,
            directions=orbit_search.DIRECTIONS if direction == "auto" else (direction,),
            distance=rig.distance,
            fov=math.radians(rig.fov_deg),
            key=jax.random.fold_in(jax.random.key(seed), ORBIT_STREAM),
            fixed=elevation is not None,
            search=self.recipe.search,
            progress=progress,
        )

    def estimate_elevation(self, views) -> float:
        """Elevation of the orbit in radians, fitted to all its views [T, H, W, 4]."""
        return self.find_orbit(views, seed=0).elevation

    def encode(self, rgba) -> jax.Array:
        """Pictures [B, H, W, 4] to the latents [B, h, w, z] that the video network sees."""
        return self._autoencoder.encode(composite(jnp.asarray(rgba))) * self.preset.autoencoder.scaling_factor

    def decode(self, latents: jax.Array) -> np.ndarray:
        """Latents [T, h, w, z] of one video in the network's order to colours [T, H, W, 3] in [0, 1]."""
        return self._autoencoder.decode(latents / self.preset.autoencoder.scaling_factor)

    def release(self) -> None:
        """Frees all networks, unless the memory preset keeps them: the fit needs the room."""
        self._parameters.release("unet", "vae", "encoder")

    def parameters(self, part: str) -> dict:
        """Those of ``unet``, ``vae`` or ``encoder``, on the device."""
        return self._parameters(part)

    def sample_batch(self, params: dict, noise: jax.Array, given: dict, quality: str) -> tuple[jax.Array, int]:
        """Samples a batch in one jitted scan.

        Args:
            params: The UNet's, wherever the batch lies.
            noise: [B, T, h, w, z] standard normal.
            given: `conditions` of B pictures, joined along their first axes.
            quality: How many steps.

        Returns:
            ([B, T, h, w, z] latents in the network's order, network evaluations of each sample).
        """
        sampling = recipes.sampling(self.preset.steps, quality)
        levels = schedule(time_grid(sampling.views, last=0.0), PROCESS)
        x = initial_sample(noise, 1.0, PROCESS)
        latents = _all_steps(self._unet, sampling.solver, params, x, levels, given, self._scales)
        return latents, network_evaluations(Guidance(image=2.0), sampling.views)

    def decode_batch(self, params: dict, latents: jax.Array) -> jax.Array:
        """Latents [B, T, h, w, z] of `sample_batch` to colours [B, T, H, W, 3]; `params` are the autoencoder's."""
        return self._autoencoder.decode_batch(params, latents / self.preset.autoencoder.scaling_factor)

    def latent_shape(self) -> tuple[int, ...]:
        """Of one video's latents, [1, T, h, w, z]."""
        autoencoder = self.preset.autoencoder
        side = self.image_size // autoencoder.factor
        return (1, self.num_views, side, side, autoencoder.latent_channels)

    def conditions(self, image, seed: int) -> dict[str, jax.Array]:
        """What every step is told about the picture; the noise on it is the same in all rounds."""
        clean = composite(jnp.asarray(image)[None])
        key = jax.random.fold_in(jax.random.key(seed), CONDITION_STREAM)
        context = _read(self._encoder, self._parameters("encoder"), clean)
        self._parameters.release("encoder")
        noised = conditions.augment_image(clean, jax.random.normal(key, clean.shape), self.preset.noise_strength)
        return {"context": context, "latent": self._autoencoder.encode(noised), "vector": self._vector()}

    def _vector(self) -> jax.Array:
        strength = self.preset.noise_strength
        if "polar" in self.preset.vector:
            azimuths = conditions.sv3d_orbit(self.num_views)[None]
            elevations = np.full_like(azimuths, self._elevation)
            return jnp.asarray(conditions.sv3d_pose_vector(elevations, azimuths, strength=strength))
        if "motion_bucket" in self.preset.vector:
            return jnp.asarray(conditions.svd_vector(1, strength=strength))
        return jnp.asarray(conditions.sv3d_vector(1, strength=strength))

    def _drawn(self, x, grid, solver: str, given, image, progress, note: str):
        params = self._parameters("unet")

        def report(state, total):
            if progress is not None:
                progress(int(state.index), total, note)

        def step(state, levels):
            together = self.memory.branches_together
            return _step(self._unet, solver, together, params, state, levels, given, self._scales)

        latents = sample_loop(step, init_state(x), grid, PROCESS, progress=report)
        del params, step
        self._parameters.release("unet")
        # The temporal decoder wants its frames as the network has them.
        pictures = conditions.from_network_order(self.decode(latents[0]), self.preset.given_view, axis=0)
        if not np.isfinite(pictures).all():
            raise WeightsError(f"{self.name} drew values that are no numbers: check its files, or load them again")
        views, uneven = cut_out_views(np.asarray(pictures))
        said = f"{note}: {uneven} of {len(views)} views have no plain background; cut out by distance to white"
        self.said = [said] if uneven else []
        views[0] = image
        return views, network_evaluations(Guidance(image=2.0), len(grid) - 1)


# Networks are static: pipelines of one family share compiled programs.
@functools.partial(jax.jit, static_argnums=0)
def _read(encoder: CLIPVision, params: dict, images: jax.Array) -> jax.Array:
    """The context [B, 1, D] of images [B, H, W, 3]."""
    pixels = condition_pixels(images, encoder.config.image_size)
    return encoder.apply({"params": params}, pixels).pooled[:, None].astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step(
    network: StableUNet,
    solver: str,
    together: bool,
    params: dict,
    state,
    levels,
    given: dict,
    scales: jax.Array,
):
    """One sampler step; both branches of guidance `together` or one after the other."""
    absent = {"context": 0 * given["context"], "latent": 0 * given["latent"], "vector": given["vector"]}
    stacked, _ = stack_conditions(Guidance(image=2.0), image=given, no_image=absent)

    def rows(x, time, row):
        x = conditions.concatenate_condition(x, row["latent"])
        times = jnp.broadcast_to(time, x.shape[:1])
        return network.apply({"params": params}, x, times, row["context"], row["vector"])

    def unet(x, time):
        if together:
            return rows(x, time, stacked)
        one = lambda pair: rows(pair[0][None], time, jax.tree.map(lambda leaf: leaf[None], pair[1]))[0]  # noqa: E731
        return jax.lax.map(one, (x, stacked))

    denoise = frame_guided_denoiser(precondition(unet, PROCESS), scales, PROCESS, "edm_v")
    return sampler_step(denoise, state, levels, solver=SOLVERS[solver])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _all_steps(network, solver: str, params: dict, x, levels, given: dict, scales) -> jax.Array:
    """The samples at the end of a schedule, both branches together."""

    def step(state, row):
        return _step(network, solver, True, params, state, row, given, scales), None

    return jax.lax.scan(step, init_state(x), levels)[0].x


def open_orbits(
    model: str, *, memory: str | None = None, elevation: float | None = None, fit: FitConfig | None = None
) -> OrbitPipeline:
    """Opens SVD, SVD-XT, SV3D_u or SV3D_p, or a checkpoint fine-tuned from one of them.

    Args:
        model: Folder, file or hub id.
        memory: One of `recipes.MEMORIES`; by default the roomiest that fits the device.
        elevation: Of the cameras in radians where it is known.
        fit: Settings of the fit that will follow, which needs memory too.

    Raises:
        WeightsError: One line: the weights cannot be read or draw no orbits, the elevation head beside them does not
            fit them, or the device has too little memory.
    """
    source = open_source(model)
    if source.preset.name not in recipes.RECIPES:
        raise WeightsError(
            f"{source.name} draws no orbits: give weights of {', '.join(recipes.RECIPES)} as --model; Stable Diffusion "
            "draws the first picture as --image_model"
        )
    itemsize, side = jnp.dtype(working_dtype()).itemsize, source.preset.height
    fit_side = min(side, recipes.RECIPES[source.preset.name].fit_side)
    chosen = choose_memory(memory, source.preset, itemsize, (side, side), fit, fit_side)
    head = find_head(source) if elevation is None else None
    return OrbitPipeline(source, chosen, elevation=elevation, head=head)
