"""Fine-tuning SVD-like networks on turntables: SVD to a multiview model, SV3D further, adapters, explicit cameras."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from im3d_jax import parallel
from im3d_jax.choices import check_above_zero, check_least, check_share
from im3d_jax.data.encoded import EncodedFolder
from im3d_jax.diffusion import Karras
from im3d_jax.errors import InputError, WeightsError
from im3d_jax.models import StableUNet, is_temporal_parameter
from im3d_jax.progress import Progress
from im3d_jax.training import lora
from im3d_jax.training.flops import step_tflop
from im3d_jax.training.objectives import Denoising, LogNormalSigmas
from im3d_jax.training.stage import Computation, Outline, Stage, deciding
from im3d_jax.training.stages.starting import start_unet, unet_outline, with_attention
from im3d_jax.training.stages.video_objectives import SvdObjective
from im3d_jax.training.trees import Rule, Tree, merge
from im3d_jax.weights import open_checkpoint
from im3d_jax.weights.checkpoints import Checkpoint
from im3d_jax.weights.export import export_checkpoint
from im3d_jax.weights.hub import find_model
from im3d_jax.weights.identify import checkpoint_hash
from im3d_jax.weights.miniature import miniature
from im3d_jax.weights.names.networks import unet_shapes
from im3d_jax.weights.presets import PRESETS, Preset


Trained = Literal["temporal", "all", "lora"]
Attention = Literal["", "xla", "cudnn", "tpu"]
Remat = Literal["none", "blocks", "full"]


@dataclasses.dataclass(frozen=True)
class SvdTraining:
    """Settings of a stage.

    Attributes:
        start: Weights to start from: a folder, a file or a hub id; ``random`` draws them, to measure speed.
        family: Of the network that is trained; the starting weights' own where empty. Another one of the same sizes
            takes over what fits: ``sv3d_p`` from SVD learns explicit cameras.
        data: Folder of encoded turntables.
        trained: ``temporal`` layers and the embedding of the conditions, ``all``, or ``lora``: adapters on the spatial
            attention, all else held.
        rank: Of the adapters.
        drop: Share of the examples without their picture, for guidance.
        sigma_mean: Of log sigma (arXiv 2311.15127, appendix D; 1.0 and 1.6 in public fine-tunings).
        sigma_std: Of log sigma.
        learning_rate: Peak of the rate.
        dtype: Of the computation and of held parameters; trained ones are float32.
        remat: Which activations the backward pass recomputes: ``none``, those inside of each residual block and
            transformer (``blocks``), or those of both together (``full``).
        attention: ``xla``, ``cudnn`` or ``tpu``; empty chooses by the device.
        fixed: (sample, time, noise) triples on which the loss is compared over the run; 0 for none.
        miniature: Networks of a few thousand parameters in place of the published ones: a trial of the whole path.

    Raises:
        InputError: A value outside of its range.
    """

    start: str = ""
    family: str = ""
    data: str = ""
    trained: Trained = "temporal"
    rank: int = 16
    drop: float = 0.1
    sigma_mean: float = 1.0
    sigma_std: float = 1.6
    learning_rate: float = 1e-5
    dtype: Computation = "bfloat16"
    remat: Remat = "blocks"
    attention: Attention = ""
    fixed: int = 64
    miniature: bool = False

    def __post_init__(self):
        check_least("stage.rank", self.rank, 1)
        check_share("stage.drop", self.drop)
        check_above_zero("stage.sigma_std", self.sigma_std)
        check_least("stage.fixed", self.fixed, 0)
        check_above_zero("stage.learning_rate", self.learning_rate, "rate")
        if not math.isfinite(self.sigma_mean):
            raise InputError(f"stage.sigma_mean={self.sigma_mean}: expected a finite number")

    def rate(self, name: str) -> float:
        """See `StageSettings`."""
        return self.learning_rate

    def objective(self, preset: Preset) -> SvdObjective:
        """The loss of a network of the preset's sizes."""
        config = with_attention(preset.unet, self.attention, self.dtype)
        network = StableUNet(config, jnp.dtype(self.dtype), remat=self.remat)
        denoising = Denoising(Karras(), "edm_v", LogNormalSigmas(self.sigma_mean, self.sigma_std))
        return SvdObjective(network, denoising, self.drop)

    def outline(self) -> Outline:
        """See `StageSettings`; of the network that `family` names, svd where it is empty."""
        preset, rule = _preset(self, None), trained_rule(self.trained)
        params: Tree = {"unet": unet_outline(preset, rule, self.dtype)}
        if self.trained == "lora":
            create = functools.partial(lora.create_adapters, rank=self.rank)
            params["adapters"] = jax.eval_shape(create, jax.random.key(0), params["unet"])
        return Outline(params, rule, self.objective(preset), example_shapes(preset), self._combine)

    @property
    def _combine(self) -> Callable[[Tree, Tree], Tree]:
        return _with_adapters if self.trained == "lora" else merge

    def build(self, seed: int, mesh: Mesh, progress: Progress) -> Stage:
        """The stage: weights are read here, each array to where it belongs.

        Args:
            seed: Of adapters and of random weights.
            mesh: Of `parallel.make_mesh`.
            progress: Is told which weights are read.

        Raises:
            InputError: Weights or data that cannot be used, or that do not belong together.
        """
        rule = trained_rule(self.trained)
        source = EncodedFolder(self.data)
        checkpoint = None if self.start == "random" else _open(self)
        preset = _preset(self, checkpoint)
        _check_data(source, preset)
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(unet_shapes(preset.unet)))
        progress.line(f"{preset.name}: UNet of {count / 1e6:.4g} million parameters, {len(source)} turntables")
        params = {"unet": start_unet(preset, checkpoint, rule, self.dtype, mesh, seed)}
        if self.trained == "lora":
            params["adapters"] = lora.create_adapters(jax.random.key(seed), params["unet"], self.rank)
        objective = self.objective(preset)
        counted = dataclasses.replace(objective, network=StableUNet(preset.unet, jnp.dtype(self.dtype)))
        example = source[0]
        identity = {
            **deciding(self, without=("start", "data", "family")),
            "family": preset.name,
            "start": "random" if checkpoint is None else checkpoint_hash(checkpoint.path),
            "data": source.identity(),
        }
        return Stage(
            name="svd",
            identity=identity,
            params=params,
            trained=rule,
            objective=objective,
            source=source,
            combine=self._combine,
            tflop=step_tflop(counted, {"unet": params["unet"]}, example, rule),
            evaluate=_fixed_loss(objective, source, self.fixed, mesh) if self.fixed else None,
            export=functools.partial(_export, checkpoint, preset, self.trained),
        )


def trained_rule(trained: Trained) -> Rule:
    """Which parameters of ``{"unet": ..., "adapters": ...}`` are trained.

    Raises:
        InputError: An unknown choice.
    """
    if trained == "all":
        return lambda name: True
    if trained == "lora":
        return lambda name: name.startswith("adapters.")
    if trained == "temporal":
        # With the embedding of the scalar conditions, which is new where a family gets other ones.
        return lambda name: is_temporal_parameter(name) or "add_embedding." in name
    raise InputError(f"stage.trained={trained}: expected temporal, all or lora")


def example_shapes(preset: Preset) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of an example that `encode_turntables` writes."""
    side = preset.height // preset.autoencoder.factor  # pictures are squares
    channels, features = preset.unet.out_channels, preset.unet.context_dims[0]
    # One row of scalar conditions a video, or one a frame where they tell the cameras.
    rows = (preset.frames,) if "polar" in preset.vector else ()
    return {
        "latents": jax.ShapeDtypeStruct((preset.frames, side, side, channels), jnp.bfloat16),
        "condition": jax.ShapeDtypeStruct((side, side, channels), jnp.bfloat16),
        "context": jax.ShapeDtypeStruct((1, features), jnp.bfloat16),
        "vector": jax.ShapeDtypeStruct((*rows, len(preset.vector)), jnp.float32),
    }


def _open(settings: SvdTraining) -> Checkpoint:
    if not settings.start:
        raise InputError("stage.start is empty: give the weights to start from, --set stage.start=DIR, or random")
    path = find_model(settings.start, "stage.start")
    if not settings.miniature:
        return open_checkpoint(path)
    for family in ("svd", "sv3d_u", "sv3d_p"):
        with contextlib.suppress(WeightsError):
            return open_checkpoint(path, preset=miniature(family))
    raise InputError(f"stage.start={settings.start}: no miniature of svd, sv3d_u or sv3d_p")


def _check_data(source: EncodedFolder, preset: Preset) -> None:
    """Refuses data that another network was meant to eat."""
    example = source[0]
    wanted = len(preset.vector) if preset.vector else 0
    for name in ("latents", "condition", "context", "vector"):
        if name not in example:
            raise InputError(f"{source.path} has no {name}: it was not encoded for an SVD-like network; encode again")
    context, vector = example["context"].shape[-1], example["vector"].shape[-1]
    if (context, vector) != (preset.unet.context_dims[0], wanted):
        raise InputError(
            f"{source.path} was encoded for another network: contexts of {context} features and {vector} scalar "
            f"conditions, {preset.name} takes {preset.unet.context_dims[0]} and {wanted}; encode with "
            f"--family={preset.name}"
        )


def _preset(settings: SvdTraining, checkpoint: Checkpoint | None) -> Preset:
    presets = miniature if settings.miniature else PRESETS.__getitem__
    if settings.family and settings.family not in PRESETS:
        raise InputError(f"stage.family={settings.family}: expected svd, svd_xt, sv3d_u or sv3d_p")
    if checkpoint is None:
        return presets(settings.family or "svd")
    preset = checkpoint.preset
    if preset.unet.temporal != "blended":
        raise InputError(f"stage.start={settings.start}: {preset.name} is no video network; give SVD or SV3D")
    if not settings.family or settings.family == preset.name:
        return preset
    wanted = presets(settings.family)
    # The files' own eps go on, and so does the autoencoder that encoded the data.
    unet = dataclasses.replace(preset.unet, vector_dims=wanted.unet.vector_dims)
    return dataclasses.replace(wanted, unet=unet, autoencoder=preset.autoencoder, norm_eps=preset.norm_eps)


def _with_adapters(trained: Tree, held: Tree) -> Tree:
    """The network's parameters with the adapters merged in; the adapters stay beside them."""
    both = merge(trained, held)
    return {**both, "unet": lora.add_adapters(both["unet"], both["adapters"])}


def _fixed_loss(objective: SvdObjective, source: EncodedFolder, count: int, mesh: Mesh) -> Any:
    """Mean loss on fixed (sample, time, noise) triples: comparable over a whole run, whatever the batches draw."""
    key = jax.random.key(2402_08682)
    times = jax.vmap(lambda k: objective.denoising.times(k, objective.denoising.process))(
        jax.random.split(jax.random.fold_in(key, 0), count)
    )
    whole = parallel.replicated(mesh)

    @jax.jit
    def one(params, batch, time, number):
        noise = jax.random.normal(jax.random.fold_in(key, 1 + number), batch["latents"].shape)
        return objective.fixed_error(params, batch, time[None], noise)[0]

    def evaluate(params: Tree) -> dict[str, float]:
        losses = []
        for number in range(count):
            rows = {name: np.asarray(value)[None] for name, value in source[number % len(source)].items()}
            batch = jax.device_put(rows, whole)
            losses.append(one(params, batch, times[number], number))
        return {"fixed_loss": float(np.mean(jax.device_get(losses)))}

    return evaluate


def _export(
    checkpoint: Checkpoint | None, preset: Preset, trained: Trained, params: Tree, folder: pathlib.Path
) -> None:
    """Writes what the run is for: a model folder that opens in diffusers and in `im3d generate`, or adapters."""
    if trained == "lora":
        lora.save_adapters(folder / "pytorch_lora_weights.safetensors", params["adapters"])
    if checkpoint is not None:
        export_checkpoint(checkpoint, preset, params["unet"], folder / "model")
