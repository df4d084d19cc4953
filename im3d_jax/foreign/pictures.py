"""Pictures from prompts by Stable Diffusion, for video models that start from a picture."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.diffusion import (
    DiscreteScaledLinear,
    Guidance,
    Prediction,
    guided_denoiser,
    init_state,
    initial_sample,
    network_evaluations,
    precondition,
    sample_loop,
    sampler_step,
    stack_conditions,
    timestep_grid,
)
from im3d_jax.foreign import recipes
from im3d_jax.foreign.memory import choose as choose_memory
from im3d_jax.foreign.networks import ChunkedAutoencoder, Parameters, unet_of, working_dtype
from im3d_jax.foreign.sources import Source, open_source
from im3d_jax.models.clip import CLIPText
from im3d_jax.models.stable_unet import StableUNet
from im3d_jax.weights.encoders import encoder_network
from im3d_jax.weights.prompt_tokenizers import PromptTokenizer, load_clip_tokenizer
from im3d_jax.weights.trees import WeightsError


IMAGE_STREAM = 0  # of the seed, as `pipeline`'s
PROCESS = DiscreteScaledLinear()
STEPS = {"draft": 15, "standard": 25, "best": 40}  # of DPM-Solver++(2M)
# What makes a picture that can be cut out.
SUFFIX = ", a single object, whole and centred, on a plain white background"


class PicturePipeline:
    """Stable Diffusion made ready to draw.

    Args:
        source: Parameters and their preset.
        tokenizer: Of the prompts.
        memory: What is done at once.

    Attributes:
        name: Family and layout.
    """

    def __init__(self, source: Source, tokenizer: PromptTokenizer, memory: recipes.Memory):
        preset = source.preset
        self.name, self.remark, self.preset = source.name, source.remark, preset
        self._tokenizer = tokenizer
        dtype = working_dtype()
        self._parameters = Parameters(source, dtype, keep=False)
        self._autoencoder = ChunkedAutoencoder(preset, self._parameters, memory, dtype)
        self._unet = unet_of(preset, dtype)
        self._encoder = encoder_network(preset.text_encoders[0], dtype)

    def unknown_words(self, prompt: str) -> list[str]:
        """None: any text is read."""
        return []

    def lost_text(self, prompt: str) -> str:
        """The end of a prompt that does not fit, if any."""
        return self._tokenizer.lost_text(prompt)

    def vocabulary(self) -> dict[str, list[str]]:
        """None: any text is read."""
        return {}

    def draw_image(
        self,
        prompt: str,
        *,
        seed: int,
        quality: str = "standard",
        progress: Callable[[int, int, str], Any] | None = None,
    ):
        """Draws a picture of an object before a plain background.

        Args:
            prompt: What to draw; `SUFFIX` is added.
            seed, quality: All that is random, and how many steps.
            progress: Called with (steps done, all steps, a note).

        Returns:
            (picture [H, W, 4] in [0, 1], opaque, network evaluations).
        """
        preset, factor = self.preset, self.preset.autoencoder.factor
        tokens, _ = self._tokenizer([prompt + SUFFIX, ""])
        context = _read(self._encoder, self._parameters("encoder"), tokens)
        self._parameters.release("encoder")
        key = jax.random.fold_in(jax.random.key(seed), IMAGE_STREAM)
        shape = (1, 1, preset.height // factor, preset.width // factor, preset.autoencoder.latent_channels)
        grid = timestep_grid(STEPS[quality], PROCESS, spacing="trailing")
        x = initial_sample(jax.random.normal(key, shape), float(grid[0]), PROCESS)
        params = self._parameters("unet")
        guidance = Guidance(prompt=preset.guidance_high)
        prediction: Prediction = "eps" if preset.prediction == "epsilon" else "v"

        def report(state, total):
            if progress is not None:
                progress(int(state.index), total, "picture")

        def step(state, levels):
            return _step(self._unet, guidance, prediction, params, state, levels, context)

        latents = sample_loop(step, init_state(x), grid, PROCESS, progress=report)
        del params, step
        self._parameters.release("unet")
        colour = self._autoencoder.decode(latents[0] / preset.autoencoder.scaling_factor)[0]
        picture = np.concatenate([colour, np.ones_like(colour[..., :1])], axis=-1)
        return picture, network_evaluations(guidance, len(grid) - 1)


# Networks are static: pipelines of one family share compiled programs.
@functools.partial(jax.jit, static_argnums=0)
def _read(encoder: CLIPText, params: dict, tokens: jax.Array) -> jax.Array:
    return encoder.apply({"params": params}, tokens).context.astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step(network: StableUNet, guidance: Guidance, prediction: Prediction, params, state, levels, context):
    """One sampler step; `context` [2, L, D] of the prompt and of none."""
    _, stacked = stack_conditions(guidance, prompt=context[:1], no_prompt=context[1:])

    def unet(x, time):
        return network.apply({"params": params}, x, jnp.broadcast_to(time, x.shape[:1]), stacked)

    denoise = guided_denoiser(precondition(unet, PROCESS), guidance, PROCESS, prediction)
    return sampler_step(denoise, state, levels)


def open_pictures(model: str) -> PicturePipeline:
    """Opens Stable Diffusion from a diffusers folder, a single file with its tokenizer's files beside it, or a hub id.

    Raises:
        WeightsError: One line for the user.
    """
    source = open_source(model)
    if source.preset.unet.temporal != "none":
        raise WeightsError(f"{source.name} draws no pictures from prompts: give Stable Diffusion 1.5 or 2.1, or tiny")
    path = source.checkpoint.path
    folder = path if path.is_dir() else path.parent
    inside = folder / "tokenizer"
    length = source.preset.text_encoders[0].length
    tokenizer = load_clip_tokenizer(inside if inside.is_dir() else folder, length, source.preset.padding)
    size = source.preset.height, source.preset.width
    memory = choose_memory(None, source.preset, jnp.dtype(working_dtype()).itemsize, size, None, 0)
    return PicturePipeline(source, tokenizer, memory)
