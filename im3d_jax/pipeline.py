"""Prompt to image to views, and views back through the model: the compute of `im3d`, without files.

`Pipeline` is this project's own model; `load` also opens foreign video models, whose class in `foreign.video` has the
same methods.

Pictures are [H, W, 4] and views [T, H, W, 4], numpy float32 in [0, 1] with straight alpha. One network
evaluation is one forward pass of one guidance branch for one asset, whatever the number of frames.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.diffusion import (
    Guidance,
    NoiseProcess,
    add_noise,
    guided_denoiser,
    init_state,
    network_evaluations,
    sample_loop,
    sample_scan,
    sampler_step,
    stack_conditions,
    time_grid,
)
from im3d_jax.foreign.layouts import is_foreign
from im3d_jax.foreign.pictures import PicturePipeline, open_pictures
from im3d_jax.foreign.video import OrbitPipeline, open_orbits
from im3d_jax.models import TinyUNet, composite_on_white, straight_alpha
from im3d_jax.reconstruction import FitConfig
from im3d_jax.weights import Bundle, load_bundle, networks


Progress = Callable[[int, int, str], None]

# Streams of the seed: no two stages ever share noise.
IMAGE_STREAM, VIEWS_STREAM, REFINE_STREAM = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one stage samples.

    Attributes:
        steps: Solver steps.
        image: Guidance scale of the picture.
        prompt: Guidance scale of the prompt.
        start: Time at which sampling starts, 1 for pure noise.
        rescale: Guidance rescale in [0, 1].
    """

    steps: int
    image: float = 1.0
    prompt: float = 1.0
    start: float = 1.0
    rescale: float = 0.0

    def guidance(self, image: bool, prompt: bool) -> Guidance:
        """The guidance with the conditions that are there."""
        return Guidance(self.image if image else None, self.prompt if prompt else None, self.rescale)


@dataclasses.dataclass(frozen=True)
class Quality:
    """Sampling of each stage at one `--quality`."""

    image: Sampling
    views: Sampling
    refine: Sampling


# Measured on held-out objects (docs/results.md, "How the sampling was chosen"). Views need no guidance: 25.42 dB
# without and 25.41 with a picture's 2 and a prompt's 1.5, at a third of the evaluations. Of the refinement's starts
# 0.15, 0.3 and 0.5 the first keeps most of what the views show and makes them the most consistent; 3, 5 and 10 steps
# of it come to the same. First pictures were judged by eye: of 2, 3 and 5 for the prompt's guidance and 10, 20 and 25
# steps, 20 at 5 drew the cleanest shapes.
QUALITIES = {
    "draft": Quality(Sampling(10, prompt=5.0), Sampling(8), Sampling(3, start=0.15)),
    "standard": Quality(Sampling(20, prompt=5.0), Sampling(10), Sampling(3, start=0.15)),
    "best": Quality(Sampling(20, prompt=5.0), Sampling(20), Sampling(5, start=0.15)),
}


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What a sampler is told, for a batch of B; a pytree.

    Attributes:
        context, mask: [B, L, D] and [B, L], the encoded prompts.
        no_context, no_mask: The same of empty prompts.
        picture: [B, h, w, z] latents of the first frame, or None.
    """

    context: jax.Array
    mask: jax.Array
    no_context: jax.Array
    no_mask: jax.Array
    picture: jax.Array | None = None


jax.tree_util.register_dataclass(Conditions, ["context", "mask", "no_context", "no_mask", "picture"], [])


def denoiser(
    unet: TinyUNet,
    process: NoiseProcess,
    params: dict,
    guidance: Guidance,
    given: Conditions,
    temporal: bool,
):
    """The guided denoiser of videos (or, not `temporal`, of single frames) for `diffusion.samplers`."""
    picture = None
    if temporal and given.picture is not None:
        picture = (given.picture, jnp.ones(given.picture.shape[:1]))
    no_picture = None if picture is None else jax.tree.map(jnp.zeros_like, picture)
    picture, (context, mask) = stack_conditions(
        guidance,
        image=picture,
        no_image=no_picture,
        prompt=(given.context, given.mask),
        no_prompt=(given.no_context, given.no_mask),
    )

    def network(x, t, index):
        del index
        time = jnp.broadcast_to(t, x.shape[:1])
        if not temporal:
            return unet.apply({"params": params}, x, time, context, mask, temporal=False)
        if picture is None:
            condition, has_image = jnp.zeros_like(x[:, 0]), jnp.zeros(x.shape[:1])
        else:
            condition, has_image = picture
        return unet.apply({"params": params}, x, time, context, mask, condition=condition, has_image=has_image)

    return guided_denoiser(network, guidance, process, "v")


class Pipeline:
    """A model bundle made ready to draw. All randomness comes from the `seed` of each call.

    Attributes:
        name: What the bundle was loaded as.
        image_size: Side of pictures and views, pixels.
        num_views: Frames of an orbit.
        target_fraction: How large the prepared object is: longer side of its box over the picture's side.
        perceptual_name: Which features the perceptual loss uses, for reports.
        recipe: None: the rig is the project's own, and the fit its presets.
        memory: None: there are no presets for what is done at once.
        said: Lines for the user about the last drawing: none.
    """

    perceptual_name = "autoencoder encoder features"
    recipe = None
    memory = None
    said = ()

    def __init__(self, bundle: Bundle, dtype=jnp.float32):
        self.bundle = bundle
        self.name, self.remark = bundle.name, ""
        self.config = bundle.config
        self.image_size = bundle.config.image_size
        self.num_views = bundle.config.unet.frames
        self.target_fraction = bundle.config.target_fraction
        self.params = jax.tree.map(jnp.asarray, bundle.params)
        nets = networks(bundle.config, dtype)
        self._unet = nets["unet"]
        autoencoder, elevation = nets["autoencoder"], nets["elevation"]

        def encode(params, rgba):
            return autoencoder.apply({"params": params}, composite_on_white(rgba), method="encode")

        def decode(params, latents):
            return straight_alpha(autoencoder.apply({"params": params}, latents, method="decode"))

        def features(params, images):
            return autoencoder.apply({"params": params}, images, method="features")

        self._encode, self._decode = jax.jit(encode), jax.jit(decode)
        self._read = jax.jit(lambda params, tokens: nets["text_encoder"].apply({"params": params}, tokens))
        self._elevation = jax.jit(lambda params, latents: elevation.apply({"params": params}, latents))
        # A Partial is a pytree: jitted callers take the weights as arguments, not as constants.
        self.features = jax.tree_util.Partial(features, self.params["autoencoder"])
        self._step = jax.jit(self._one_step, static_argnames=("guidance", "temporal"))
        self._scan = jax.jit(self._all_steps, static_argnames=("sampling", "guidance", "temporal"))

    def vocabulary(self) -> dict[str, list[str]]:
        """{word that the model was trained on: other words that prompts may use for it}; "next to" is one word."""
        known: dict[str, list[str]] = {word: [] for word in self.bundle.tokenizer.words()}
        for other, word in self.bundle.tokenizer.aliases().items():
            known.setdefault(word, []).append(other)
        return dict(sorted(known.items()))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the model does not know; they are dropped."""
        return self.bundle.tokenizer.unknown_words(prompt)

    def lost_text(self, prompt: str) -> str:
        """The end of a prompt that is longer than what the model reads, or nothing."""
        return self.bundle.tokenizer.lost_text(prompt)

    def draw_image(self, prompt: str, *, seed: int, quality: str = "standard", progress: Progress | None = None):
        """Draws the first picture from a prompt.

        Returns:
            (picture [H, W, 4], network evaluations).
        """
        sampling = QUALITIES[quality].image
        given = self.conditions([prompt])
        key = jax.random.fold_in(jax.random.key(seed), IMAGE_STREAM)
        x = jax.random.normal(key, self._shape(1, 1))
        latents, count = self._sample(x, sampling, given, False, True, progress, "image")
        return np.asarray(self.decode(latents[:, 0]))[0], count

    def draw_views(
        self,
        image,
        prompt: str | None,
        *,
        seed: int,
        quality: str = "standard",
        progress: Progress | None = None,
    ):
        """Draws the orbit whose first view is `image`.

        Args:
            image: [H, W, 4] prepared picture, or None (then the prompt alone decides).
            prompt: The prompt, or None.
            seed, quality, progress: See `draw_image`.

        Returns:
            (views [T, H, W, 4], network evaluations); view 0 is `image` itself where one is given.
        """
        if image is None and prompt is None:
            raise ValueError("draw_views needs an image, a prompt or both, got neither")
        sampling = QUALITIES[quality].views
        given = self.conditions([prompt or ""], None if image is None else jnp.asarray(image)[None])
        key = jax.random.fold_in(jax.random.key(seed), VIEWS_STREAM)
        x = jax.random.normal(key, self._shape(1, self.num_views))
        latents, count = self._sample(x, sampling, given, True, prompt is not None, progress, "views")
        return self._views(latents, image), count

    def refine(
        self,
        renders,
        image,
        prompt: str | None,
        *,
        round: int,
        seed: int,
        quality: str = "standard",
        progress: Progress | None = None,
    ):
        """Noises renders of the orbit part-way and denoises them under the original picture and prompt.

        IM-3D (arXiv 2402.08682), section 3.4.

        Args:
            renders: [T, H, W, 4] renders of the fitted asset.
            image: [H, W, 4] the conditioning picture.
            prompt: The prompt, or None.
            round: 1 for the first refinement; each round has noise of its own.
            seed, quality, progress: See `draw_image`.

        Returns:
            (views [T, H, W, 4] with view 0 the picture, network evaluations).
        """
        sampling = QUALITIES[quality].refine
        given = self.conditions([prompt or ""], jnp.asarray(image)[None])
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), REFINE_STREAM), round)
        clean = self.encode(jnp.asarray(renders))[None]
        x = add_noise(clean, jax.random.normal(key, clean.shape), sampling.start, self.config.process)
        latents, count = self._sample(x, sampling, given, True, prompt is not None, progress, f"refine {round}")
        return self._views(latents, image), count

    def estimate_elevation(self, views) -> float:
        """Elevation of the orbit in radians, from all its views [T, H, W, 4]."""
        latents = self.encode(jnp.asarray(views))[None]
        return float(self._elevation(self.params["elevation"], latents)[0])

    def encode(self, rgba: jax.Array) -> jax.Array:
        """Pictures [B, H, W, 4] to normalised latents [B, h, w, z]."""
        return self._encode(self.params["autoencoder"], rgba)

    def decode(self, latents: jax.Array) -> jax.Array:
        """Normalised latents [B, h, w, z] to pictures [B, H, W, 4]."""
        return self._decode(self.params["autoencoder"], latents)

    def conditions(self, prompts: list[str], images: jax.Array | None = None) -> Conditions:
        """Encodes B prompts (empty: none) and, when given, B first pictures [B, H, W, 4]."""
        tokens = jnp.asarray(self.bundle.tokenizer(prompts))
        return self.conditions_of_tokens(tokens, None if images is None else self.encode(images))

    def conditions_of_tokens(self, tokens: jax.Array, pictures: jax.Array | None = None) -> Conditions:
        """`conditions` from token rows [B, L] and first-frame latents [B, h, w, z]."""
        read = functools.partial(self._read, self.params["text_encoder"])
        empty = jnp.asarray(self.bundle.tokenizer([""] * len(tokens)))
        return Conditions(*read(tokens), *read(empty), pictures)

    def sample_batch(
        self, noise: jax.Array, given: Conditions, sampling: Sampling, *, temporal: bool, prompt: bool
    ) -> jax.Array:
        """Samples a batch in one jitted scan.

        Args:
            noise: [B, T, h, w, z] samples at the level of `sampling.start`.
            given: The conditions.
            sampling: Steps and guidance.
            temporal: Videos (True) or single frames, T = 1.
            prompt: Whether the prompts guide.

        Returns:
            [B, T, h, w, z] clean latents.
        """
        guidance = sampling.guidance(temporal and given.picture is not None, prompt)
        return self._scan(self.params["unet"], noise, given, sampling, guidance, temporal)

    def _shape(self, batch: int, frames: int) -> tuple[int, ...]:
        size = self.config.latent_size
        return (batch, frames, size, size, self.config.autoencoder.latent_channels)

    def _views(self, latents: jax.Array, image) -> np.ndarray:
        views = np.array(self.decode(latents[0]))
        if image is not None:
            views[0] = image
        return views

    def _one_step(self, params, state, levels, given, guidance, temporal):
        denoise = denoiser(self._unet, self.config.process, params, guidance, given, temporal)
        return sampler_step(denoise, state, levels)

    def _all_steps(self, params, x, given, sampling, guidance, temporal):
        denoise = denoiser(self._unet, self.config.process, params, guidance, given, temporal)
        return sample_scan(denoise, x, time_grid(sampling.steps, start=sampling.start), self.config.process)

    def _sample(self, x, sampling: Sampling, given: Conditions, temporal: bool, prompt: bool, progress, note: str):
        guidance = sampling.guidance(temporal and given.picture is not None, prompt)

        def step(state, levels):
            return self._step(self.params["unet"], state, levels, given, guidance, temporal)

        def report(state, total):
            if progress is not None:
                progress(int(state.index), total, note)

        grid = time_grid(sampling.steps, start=sampling.start)
        latents = sample_loop(step, init_state(x), grid, self.config.process, progress=report)
        return latents, network_evaluations(guidance, sampling.steps)


def load(
    model: str = "tiny",
    dtype=jnp.float32,
    *,
    memory: str | None = None,
    elevation: float | None = None,
    fit: FitConfig | None = None,
) -> Pipeline | OrbitPipeline:
    """Loads a model (``tiny``, a bundle's folder, or weights of SVD or SV3D) and makes it ready.

    Args:
        model: Name or path.
        dtype: Of a bundle's networks; foreign ones choose theirs by the device.
        memory: Of foreign models, one of `recipes.MEMORIES`; by default the roomiest that fits the device.
        elevation: Of foreign models, the cameras' elevation in radians where it is known.
        fit: Of foreign models, the fit that will follow and needs memory of its own.

    Raises:
        WeightsError: One line for the user.
    """
    if model != "tiny" and is_foreign(model):
        return open_orbits(model, memory=memory, elevation=elevation, fit=fit)
    return Pipeline(load_bundle(model), dtype)


def load_pictures(model: str) -> Pipeline | PicturePipeline:
    """Loads what draws a first picture from a prompt: Stable Diffusion's weights, ``tiny``, or a bundle's folder.

    Raises:
        WeightsError: One line for the user.
    """
    if model != "tiny" and is_foreign(model):
        return open_pictures(model)
    return Pipeline(load_bundle(model))
