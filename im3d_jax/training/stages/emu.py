"""Fine-tuning a network of Emu Video's layout on turntables, as IM-3D does (arXiv 2402.08682, section 3.1).

No weights of Emu Video are public: the stage trains for those who have some, and measures a plan on random ones.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from im3d_jax.choices import check_above_zero, check_share
from im3d_jax.data.encoded import EncodedFolder, RandomExamples
from im3d_jax.diffusion import ScaledLinear
from im3d_jax.errors import InputError
from im3d_jax.models import StableUNet, is_temporal_parameter
from im3d_jax.progress import Progress
from im3d_jax.training.flops import step_tflop
from im3d_jax.training.objectives import Denoising, UniformTimes
from im3d_jax.training.stage import Computation, Outline, Stage, deciding
from im3d_jax.training.stages.starting import start_unet, unet_outline, with_attention
from im3d_jax.training.stages.svd import Attention, Remat
from im3d_jax.training.stages.video_objectives import EmuObjective
from im3d_jax.training.trees import Tree
from im3d_jax.weights import load_safetensors, open_checkpoint
from im3d_jax.weights.checkpoints import save_network
from im3d_jax.weights.conversion import FILES
from im3d_jax.weights.hub import find_model
from im3d_jax.weights.identify import checkpoint_hash
from im3d_jax.weights.miniature import miniature
from im3d_jax.weights.names.networks import unet_shapes, unet_table
from im3d_jax.weights.presets import PRESETS, Preset


FAMILY, EMPTY = "emu_video", "empty.safetensors"
TOKENS = 77  # of every context


@dataclasses.dataclass(frozen=True)
class EmuTraining:
    """Settings of the stage: temporal layers and the convolution of the condition are trained, all else is held.

    Attributes:
        start: Folder with ``unet/diffusion_pytorch_model.safetensors`` of the layout, or ``random``.
        data: Folder of encoded turntables (``latents`` [T, h, w, 8], ``context_0`` [77, 768] and ``context_1``
            [77, 2048]; those of the empty prompt in ``empty.safetensors``), or ``random``.
        drop: Share of the examples that lose the prompt, the picture, and both, each.
        learning_rate: Peak of the rate.
        dtype: Of the computation and of held parameters; trained ones are float32.
        remat: See `SvdTraining`.
        attention: ``xla``, ``cudnn`` or ``tpu``; empty chooses by the device.
        miniature: A network of a few thousand parameters, to try the path.

    Raises:
        InputError: A value outside of its range.
    """

    start: str = "random"
    data: str = "random"
    drop: float = 0.1
    learning_rate: float = 1e-5
    dtype: Computation = "bfloat16"
    remat: Remat = "blocks"
    attention: Attention = ""
    miniature: bool = False

    def __post_init__(self):
        check_share("stage.drop", self.drop)
        check_above_zero("stage.learning_rate", self.learning_rate, "rate")

    def rate(self, name: str) -> float:
        """See `StageSettings`."""
        return self.learning_rate

    @property
    def _preset(self) -> Preset:
        return miniature(FAMILY) if self.miniature else PRESETS[FAMILY]

    def objective(self, preset: Preset) -> EmuObjective:
        """The loss of a network of the preset's sizes."""
        config = with_attention(preset.unet, self.attention, self.dtype)
        network = StableUNet(config, jnp.dtype(self.dtype), remat=self.remat)
        return EmuObjective(network, Denoising(ScaledLinear(), "v", UniformTimes()), self.drop)

    def outline(self) -> Outline:
        """See `StageSettings`."""
        shapes = example_shapes(self._preset)
        empty = {name: shape for name, shape in shapes.items() if name != "latents"}
        params: Tree = {
            "unet": unet_outline(self._preset, is_temporal_parameter, self.dtype),
            "empty": {name: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for name, shape in empty.items()},
        }
        example = {name: jax.ShapeDtypeStruct(shape, jnp.float16) for name, shape in shapes.items()}
        return Outline(params, is_temporal_parameter, self.objective(self._preset), example)

    def build(self, seed: int, mesh: Mesh, progress: Progress) -> Stage:
        """See `StageSettings`."""
        preset = self._preset
        checkpoint = None
        if self.start != "random":
            checkpoint = open_checkpoint(find_model(self.start, "stage.start"), preset=preset)
        source, empty = _data(self.data, preset)
        objective = self.objective(preset)
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(unet_shapes(preset.unet)))
        progress.line(f"{preset.name}: UNet of {count / 1e6:.4g} million parameters, {len(source)} turntables")
        params: Tree = {
            "unet": start_unet(preset, checkpoint, is_temporal_parameter, self.dtype, mesh, seed),
            "empty": {name: jnp.asarray(value, jnp.bfloat16) for name, value in empty.items()},
        }
        counted = dataclasses.replace(objective, network=StableUNet(preset.unet, jnp.dtype(self.dtype)))
        return Stage(
            name="emu",
            identity={
                **deciding(self, without=("start", "data")),
                "start": "random" if checkpoint is None else checkpoint_hash(checkpoint.path),
                "data": source.identity(),
            },
            params=params,
            trained=is_temporal_parameter,
            objective=objective,
            source=source,
            tflop=step_tflop(counted, params, source[0], is_temporal_parameter),
            export=functools.partial(_export, preset),
        )


def example_shapes(preset: Preset) -> dict[str, tuple[int, ...]]:
    """Shapes of what one example holds."""
    factor = preset.autoencoder.factor
    return {
        "latents": (preset.frames, preset.height // factor, preset.width // factor, preset.unet.out_channels),
        **{f"context_{number}": (TOKENS, width) for number, width in enumerate(preset.unet.context_dims)},
    }


def _data(path: str, preset: Preset) -> tuple[EncodedFolder | RandomExamples, dict[str, np.ndarray]]:
    """(examples, contexts of the empty prompt)."""
    shapes = example_shapes(preset)
    contexts = {name: shape for name, shape in shapes.items() if name != "latents"}
    if path == "random":
        return RandomExamples(shapes), {name: np.zeros(shape, np.float32) for name, shape in contexts.items()}
    source, file = EncodedFolder(path), pathlib.Path(path) / EMPTY
    if not file.is_file():
        raise InputError(f"{file} is missing: it holds {' and '.join(contexts)} of the empty prompt")
    empty = {name: np.asarray(value) for name, value in load_safetensors(file).items()}
    first = source[0]
    found = {name: value.shape for name, value in first.items()}
    if set(found) != set(shapes) or {name: value.shape for name, value in empty.items()} != {
        name: found[name] for name in contexts
    }:
        raise InputError(f"{path} holds {found}, expected {shapes} and contexts of the empty prompt of the same shapes")
    return source, empty


def _export(preset: Preset, params: Tree, folder: pathlib.Path) -> None:
    """Writes the UNet, float16, as `start` takes it."""
    (folder / "model" / "unet").mkdir(parents=True, exist_ok=True)
    table = unet_table(preset, unet_shapes(preset.unet), "diffusers")
    save_network(folder / "model" / "unet" / FILES["unet"], params["unet"], table, dtype=jnp.float16)
