"""Stable Diffusion 1.5 and 2.1, ready to draw a first picture: a `PictureModel`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax import seeds
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
    schedule,
    stack_conditions,
    timestep_grid,
)
from im3d_jax.models import StableUNet
from im3d_jax.models.calls import apply
from im3d_jax.models.clip import CLIPText, CLIPTextConfig
from im3d_jax.parallel import replicated
from im3d_jax.pipelines import memory as device_memory
from im3d_jax.pipelines.base import ONE, Batch, Drawing, Drawn, Quality, fetch, lost_end, place
from im3d_jax.pipelines.noise import row_noise
from im3d_jax.pipelines.residency import ChunkedAutoencoder, Parameters, unet_of, working_dtype
from im3d_jax.pipelines.sources import CheckpointSource, Source, describe_source
from im3d_jax.progress import Report
from im3d_jax.weights.encoders import encoder_network
from im3d_jax.weights.prompt_tokenizers import PromptTokenizer, load_clip_tokenizer


PROCESS = DiscreteScaledLinear()


@dataclasses.dataclass(frozen=True)
class PictureQuality:
    """What a quality stands for.

    Attributes:
        steps: Of DPM-Solver++(2M).
        suffix: What is added to the prompt, so that the picture can be cut out.
    """

    steps: int
    suffix: str = ", a single object, whole and centred, on a plain white background"


QUALITIES: dict[Quality, PictureQuality] = {
    "draft": PictureQuality(15),
    "standard": PictureQuality(25),
    "best": PictureQuality(40),
}


class StableDiffusion:
    """Stable Diffusion ready to draw; see `PictureModel` for its methods.

    Args:
        source: Parameters and their preset.
        tokenizer: Of the prompts.
        memory: What is done at once.
    """

    def __init__(self, source: Source, tokenizer: PromptTokenizer, memory: device_memory.Memory):
        preset = source.preset
        self.name, self.remark, self.preset = source.name, source.remark, preset
        self._source, self._tokenizer = source, tokenizer
        dtype = working_dtype()
        self._parameters = Parameters(source, dtype, keep=False)
        self._autoencoder = ChunkedAutoencoder(preset, self._parameters, memory, dtype)
        self._unet = unet_of(preset, dtype)
        self._encoder = encoder_network(preset.text_encoders[0], dtype)

    def vocabulary(self) -> dict[str, list[str]]:
        """Empty: any text is read."""
        return {}

    def prompt_remarks(self, prompt: str) -> list[str]:
        """Names the end of a prompt that does not fit."""
        lost = self._tokenizer.lost_text(prompt)
        return [lost_end(lost)] if lost else []

    def check_prompt(self, prompt: str) -> None:
        """Nothing: any text is read."""

    def describe(self) -> list[str]:
        """See `PictureModel`."""
        return describe_source(self._source, "draws pictures from prompts (--image_model)")

    def picture_settings(self, quality: Quality) -> PictureQuality:
        """See `PictureModel`."""
        return QUALITIES[quality]

    def picture_identity(self) -> dict[str, Any]:
        """See `PictureModel`."""
        return {"name": self.preset.name, "sha256": self._source.sha256()}

    def draw_pictures(
        self,
        prompts: Sequence[str],
        row_seeds: Sequence[int],
        settings: PictureQuality,
        *,
        batch: Batch = ONE,
        report: Report | None = None,
    ) -> Drawing:
        """Draws opaque pictures before a plain background; see `PictureModel`."""
        preset, factor = self.preset, self.preset.autoencoder.factor
        rows = [prompt + settings.suffix for prompt in batch.fill(prompts)]
        tokens, _ = self._tokenizer([*rows, ""])
        read = _read(self._encoder, self._parameters("encoder"), tokens)
        self._parameters.release("encoder")
        context = place(read[:-1], batch), place(jnp.broadcast_to(read[-1:], read[:-1].shape), batch)
        shape = (1, 1, preset.height // factor, preset.width // factor, preset.autoencoder.latent_channels)
        grid = timestep_grid(settings.steps, PROCESS, spacing="trailing")
        noise = place(row_noise(batch.fill(row_seeds), seeds.PICTURE, shape[1:]), batch)
        x = initial_sample(noise, float(grid[0]), PROCESS)
        params = self._on(batch)
        guidance = Guidance(prompt=preset.guidance_high)
        prediction: Prediction = "eps" if preset.prediction == "epsilon" else "v"
        if report is None:
            latents = _all_steps(self._unet, guidance, prediction, params, x, schedule(grid, PROCESS), context)
        else:
            progress = lambda state, total: report(int(state.index), total, "picture")  # noqa: E731

            def step(state, levels):
                return _step(self._unet, guidance, prediction, params, state, levels, context)

            latents = sample_loop(step, init_state(x), grid, PROCESS, progress=progress)
            del step
        del params
        self._parameters.release("unet")
        videos = self._autoencoder.decode_batch(self._parameters("vae"), latents / preset.autoencoder.scaling_factor)
        self._parameters.release("vae")
        count = network_evaluations(guidance, len(grid) - 1)

        def finish() -> list[Drawn]:
            colours = fetch(videos)[: len(prompts), 0]
            pictures = np.concatenate([colours, np.ones_like(colours[..., :1])], axis=-1)
            return [Drawn(picture, count) for picture in pictures]

        return finish

    def _on(self, batch: Batch) -> dict:
        params = self._parameters("unet")
        return params if batch.mesh is None else jax.device_put(params, replicated(batch.mesh))


# Networks are static: pipelines of one family share compiled programs.
@functools.partial(jax.jit, static_argnums=0)
def _read(encoder: CLIPText, params: dict, tokens: jax.Array) -> jax.Array:
    return apply(encoder, params, tokens).context.astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _step(network: StableUNet, guidance: Guidance, prediction: Prediction, params, state, levels, context):
    """One sampler step; `context` holds [B, L, D] of the prompts and of none."""
    _, stacked = stack_conditions(guidance, prompt=context[0], no_prompt=context[1])

    def unet(x, time):
        return apply(network, params, x, jnp.broadcast_to(time, x.shape[:1]), stacked)

    denoise = guided_denoiser(precondition(unet, PROCESS), guidance, PROCESS, prediction)
    return sampler_step(denoise, state, levels)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _all_steps(network: StableUNet, guidance: Guidance, prediction: Prediction, params, x, levels, context):
    """The samples at the end of a schedule."""

    def step(state, row):
        return _step(network, guidance, prediction, params, state, row, context), None

    return jax.lax.scan(step, init_state(x), levels)[0].x


def open_stable_diffusion(source: CheckpointSource) -> StableDiffusion:
    """Stable Diffusion of a diffusers folder, or of a single file with its tokenizer's files beside it.

    Raises:
        WeightsError: No tokenizer, or too little device memory.
    """
    path = source.checkpoint.path
    folder = path if path.is_dir() else path.parent
    inside = folder / "tokenizer"
    preset = source.preset
    encoder = preset.text_encoders[0]
    assert isinstance(encoder, CLIPTextConfig)  # as all of Stable Diffusion's are
    tokenizer = load_clip_tokenizer(inside if inside.is_dir() else folder, encoder.length, preset.padding)
    itemsize, size = jnp.dtype(working_dtype()).itemsize, (preset.height, preset.width)
    memory = device_memory.choose(
        None,
        preset.name,
        lambda each: device_memory.estimate(preset, each, itemsize, size, None, 0),
        room=device_memory.device_gib(),
    )
    return StableDiffusion(source, tokenizer, memory)
