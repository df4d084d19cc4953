"""The stages that make a bundle of this project, from nothing to the files that ship.

Each stage starts from a bundle (or from nothing), trains its part on rendered turntables and writes a bundle with the
averaged parameters of that part. Parameters are nested under the names of the bundle's parts.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from im3d_jax.choices import check_above_zero, check_least, check_share
from im3d_jax.data import turntables
from im3d_jax.data.prop_arrays import map_props, prop_vocabulary
from im3d_jax.data.toybox import ALIASES, VOCABULARY
from im3d_jax.digests import json_hash
from im3d_jax.errors import InputError
from im3d_jax.images.alpha import composite, composite_on_white, straight_from_white
from im3d_jax.images.metrics import psnr
from im3d_jax.models import is_temporal_parameter
from im3d_jax.models.calls import apply
from im3d_jax.models.elevation import ElevationHead
from im3d_jax.pipelines.base import ViewTask
from im3d_jax.pipelines.bundle import QUALITIES, BundleModel
from im3d_jax.progress import Progress
from im3d_jax.training.objectives import Denoising, UniformTimes
from im3d_jax.training.stage import Computation, Outline, Stage, deciding
from im3d_jax.training.stages.bundle_objectives import (
    AutoencoderObjective,
    ElevationObjective,
    PictureObjective,
    TurntableObjective,
)
from im3d_jax.training.trees import Tree
from im3d_jax.weights import Bundle, BundleConfig, WordTokenizer, build_tokenizer, load_bundle, networks, save_bundle
from im3d_jax.weights.bundle import example_inputs, parameter_shapes
from im3d_jax.weights.identify import bundle_hash


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Turntables that a stage renders at its start: of Toybox, and of props behind them.

    Attributes:
        objects: Toybox's training objects, by index from 0.
        frames: Frame numbers drawn of each; props are drawn at 1, 2, 4, 8 or 16 frames evenly around the orbit.
        held_out: Toybox's test objects for evaluations; 0 for none.
        pack: File of props, see docs/props.md; empty for Toybox alone.
        props: Training examples of props, by index from 0.
        held_out_props: Test examples of props for evaluations.
    """

    objects: int = 10_000
    frames: tuple[int, ...] = tuple(range(turntables.ORBIT_FRAMES))
    held_out: int = 32
    pack: str = ""
    props: int = 0
    held_out_props: int = 0

    def __post_init__(self):
        for name in ("objects", "held_out", "props", "held_out_props"):
            check_least(f"stage.data.{name}", getattr(self, name), 0)
        if not self.frames:
            raise InputError("stage.data.frames=(): expected numbers of frames")

    @property
    def evaluated(self) -> bool:
        """Whether there are held-out objects."""
        return self.held_out + self.held_out_props > 0


@dataclasses.dataclass(frozen=True)
class Start:
    """What a stage starts from.

    Attributes:
        bundle: ``tiny`` or a bundle's folder; empty for new networks of the sizes of `model`.
        model: Sizes of a new bundle.
        prop_words: Whether a new bundle knows the words of props beside those of Toybox.
    """

    bundle: str = ""
    model: BundleConfig = BundleConfig()
    prop_words: bool = False

    def open(self, seed: int) -> Bundle:
        """The bundle; a new one has random weights.

        Raises:
            InputError: Its vocabulary is too small for the words.
        """
        if self.bundle:
            return load_bundle(self.bundle)
        words = list(VOCABULARY)
        if self.prop_words:
            words += [word for word in prop_vocabulary() if word not in VOCABULARY]
        # A synonym of Toybox may be a word of its own among props.
        aliases = {alias: meant for alias, meant in ALIASES.items() if alias not in words}
        tokenizer = WordTokenizer(build_tokenizer(words, aliases), self.model.text.length)
        if len(tokenizer.words()) + 3 > self.model.text.vocabulary:
            raise InputError(
                f"{len(tokenizer.words())} words do not fit into model.text.vocabulary={self.model.text.vocabulary}"
            )
        inputs, params = example_inputs(self.model), {}
        for number, (part, module) in enumerate(networks(self.model).items()):
            key = jax.random.fold_in(jax.random.key(seed), number)
            params[part] = jax.jit(module.init)(key, *inputs[part])["params"]
        return Bundle("new", pathlib.Path(), self.model, tokenizer, params)

    def sizes(self) -> BundleConfig:
        """Of the bundle."""
        return load_bundle(self.bundle).config if self.bundle else self.model

    def identity(self, bundle: Bundle) -> dict[str, Any]:
        """Sizes of what `open` gave, and its weights by their SHA-256."""
        weights = bundle_hash(bundle.folder) if self.bundle else "new"
        return {"start": weights, "model": json_hash(dataclasses.asdict(bundle.config))}


class ArrayExamples:
    """An `ExampleSource` over arrays in memory with a common leading axis."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = dict(arrays)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: array[index] for name, array in self.arrays.items()}


@dataclasses.dataclass(frozen=True)
class AutoencoderTraining:
    """The autoencoder on single frames.

    Attributes:
        start: What it starts from.
        data: Frames that it sees.
        kl_weight: Of the divergence from N(0, 1).
        learning_rate: Peak of the rate.
        dtype: Of the computation.
    """

    start: Start = Start()
    data: Rendered = Rendered(12_000, (0, 3, 6, 9, 13))
    kl_weight: float = 1e-4
    learning_rate: float = 1e-3
    dtype: Computation = "bfloat16"

    def __post_init__(self):
        check_least("stage.kl_weight", self.kl_weight, 0)
        check_above_zero("stage.learning_rate", self.learning_rate, "rate")

    def rate(self, name: str) -> float:
        """See `StageSettings`."""
        return self.learning_rate

    def trained(self, name: str) -> bool:
        """See `Stage`."""
        return not name.endswith(("latent_mean", "latent_std"))

    def objective(self, config: BundleConfig) -> AutoencoderObjective:
        """The loss of a bundle of these sizes."""
        return AutoencoderObjective(networks(config, jnp.dtype(self.dtype))["autoencoder"], self.kl_weight)

    def outline(self) -> Outline:
        """See `StageSettings`."""
        config = self.start.sizes()
        example = {"rgba": jax.ShapeDtypeStruct((config.image_size, config.image_size, 4), jnp.uint8)}
        params = {"autoencoder": parameter_shapes(config)["autoencoder"]}
        return Outline(params, self.trained, self.objective(config), example)

    def build(self, seed: int, mesh: Mesh, progress: Progress) -> Stage:
        """The stage; its data are rendered here."""
        bundle = self.start.open(seed)
        rgba, _, _ = _render(bundle, self.data, "train", progress, turntables.to_bytes)
        pictures = {"rgba": rgba.reshape(-1, *rgba.shape[2:])}
        return Stage(
            name="autoencoder",
            identity={**self.start.identity(bundle), **deciding(self, without=("start",))},
            params={"autoencoder": bundle.params["autoencoder"]},
            trained=self.trained,
            objective=self.objective(bundle.config),
            source=ArrayExamples(pictures),
            evaluate=_reconstruction(bundle, self.data, progress) if self.data.evaluated else None,
            export=lambda params, folder: _save_measured(bundle, params, pictures["rgba"], folder),
        )


@dataclasses.dataclass(frozen=True)
class PictureTraining:
    """The text-to-image part: spatial layers and text encoder, on first frames.

    Attributes:
        start: What it starts from.
        data: Frames that it sees.
        drop: Share of the examples without their prompt.
        learning_rate: Peak of the rate.
        dtype: Of the computation.
        attention: ``xla`` or ``cudnn``.
    """

    start: Start = Start()
    data: Rendered = Rendered(100_000, (0,), 0)
    drop: float = 0.1
    learning_rate: float = 6e-4
    dtype: Computation = "bfloat16"
    attention: Literal["xla", "cudnn"] = "xla"

    def __post_init__(self):
        check_share("stage.drop", self.drop)
        check_above_zero("stage.learning_rate", self.learning_rate, "rate")

    def rate(self, name: str) -> float:
        """See `StageSettings`."""
        return self.learning_rate

    def trained(self, name: str) -> bool:
        """See `Stage`."""
        return not is_temporal_parameter(name)

    def objective(self, config: BundleConfig) -> PictureObjective:
        """The loss of a bundle of these sizes."""
        nets = _networks(config, self.dtype, self.attention)
        denoising = Denoising(config.process, "v", UniformTimes())
        return PictureObjective(nets["unet"], nets["text_encoder"], denoising, self.drop)

    def outline(self) -> Outline:
        """See `StageSettings`."""
        config = self.start.sizes()
        params = _of_unet(parameter_shapes(config))
        return Outline(params, self.trained, self.objective(config), _example(config, self.data))

    def build(self, seed: int, mesh: Mesh, progress: Progress) -> Stage:
        """The stage; its data are rendered and encoded here."""
        bundle = self.start.open(seed)
        return Stage(
            name="pictures",
            identity={**self.start.identity(bundle), **deciding(self, without=("start",))},
            params=_of_unet(bundle.params),
            trained=self.trained,
            objective=self.objective(bundle.config),
            source=_encoded(bundle, self.data, "train", progress),
            export=functools.partial(_save, bundle),
        )


@dataclasses.dataclass(frozen=True)
class TurntableTraining:
    """The turntables: temporal layers, and spatial ones at a share of the rate.

    Attributes:
        start: What it starts from.
        data: Turntables that it sees.
        drop: Share of the examples that lose the prompt, the picture, and both, each.
        condition_noise: Most standard deviation of the noise on the conditioning latent.
        spatial_rate: Share of the learning rate that spatial layers get; 0 holds them.
        picture_weight: Of the loss of single first frames.
        high_noise: Share of the times drawn from the noisiest fifth alone.
        more_given: Share of the examples that are given one to three frames beside the first.
        learning_rate: Peak of the rate.
        dtype: Of the computation.
        attention: ``xla`` or ``cudnn``.
    """

    start: Start = Start()
    data: Rendered = Rendered(16_000)
    drop: float = 0.1
    condition_noise: float = 0.1
    spatial_rate: float = 0.0
    picture_weight: float = 0.0
    high_noise: float = 0.0
    more_given: float = 0.0
    learning_rate: float = 8e-4
    dtype: Computation = "bfloat16"
    attention: Literal["xla", "cudnn"] = "xla"

    def __post_init__(self):
        for name in ("drop", "high_noise", "more_given"):
            check_share(f"stage.{name}", getattr(self, name))
        for name in ("condition_noise", "spatial_rate", "picture_weight"):
            check_least(f"stage.{name}", getattr(self, name), 0)
        check_above_zero("stage.learning_rate", self.learning_rate, "rate")

    def rate(self, name: str) -> float:
        """See `StageSettings`."""
        return self.learning_rate * (1.0 if is_temporal_parameter(name) else self.spatial_rate)

    def trained(self, name: str) -> bool:
        """See `Stage`."""
        return is_temporal_parameter(name) or (self.spatial_rate > 0 and name.startswith("unet."))

    def objective(self, config: BundleConfig) -> TurntableObjective:
        """The loss of a bundle of these sizes."""
        nets = _networks(config, self.dtype, self.attention)
        denoising = Denoising(config.process, "v", UniformTimes(self.high_noise))
        return TurntableObjective(
            nets["unet"],
            nets["text_encoder"],
            denoising,
            self.drop,
            self.condition_noise,
            self.picture_weight,
            self.more_given,
        )

    def outline(self) -> Outline:
        """See `StageSettings`."""
        config = self.start.sizes()
        params = _of_unet(parameter_shapes(config))
        return Outline(params, self.trained, self.objective(config), _example(config, self.data))

    def build(self, seed: int, mesh: Mesh, progress: Progress) -> Stage:
        """The stage; its data are rendered and encoded here."""
        bundle = self.start.open(seed)
        return Stage(
            name="turntables",
            identity={**self.start.identity(bundle), **deciding(self, without=("start",))},
            params=_of_unet(bundle.params),
            trained=self.trained,
            objective=self.objective(bundle.config),
            source=_encoded(bundle, self.data, "train", progress),
            evaluate=_views_of_held_out(bundle, self.data, progress) if self.data.evaluated else None,
            export=functools.partial(_save, bundle),
        )


@dataclasses.dataclass(frozen=True)
class ElevationTraining:
    """The elevation head on latents of turntables.

    Attributes:
        start: What it starts from.
        data: Frames that it sees.
        learning_rate: Peak of the rate.
    """

    start: Start = Start()
    data: Rendered = Rendered(50_000, (0, 4, 8, 12), 256)
    learning_rate: float = 1e-3

    def __post_init__(self):
        check_above_zero("stage.learning_rate", self.learning_rate, "rate")

    def rate(self, name: str) -> float:
        """See `StageSettings`."""
        return self.learning_rate

    def trained(self, name: str) -> bool:
        """See `Stage`."""
        return True

    def objective(self, config: BundleConfig) -> ElevationObjective:
        """The loss of a bundle of these sizes."""
        return ElevationObjective(networks(config)["elevation"])

    def outline(self) -> Outline:
        """See `StageSettings`."""
        config = self.start.sizes()
        params = {"elevation": parameter_shapes(config)["elevation"]}
        return Outline(params, self.trained, self.objective(config), _example(config, self.data))

    def build(self, seed: int, mesh: Mesh, progress: Progress) -> Stage:
        """The stage; its data are rendered and encoded here."""
        bundle = self.start.open(seed)
        objective = self.objective(bundle.config)
        return Stage(
            name="elevation",
            identity={**self.start.identity(bundle), **deciding(self, without=("start",))},
            params={"elevation": bundle.params["elevation"]},
            trained=self.trained,
            objective=objective,
            source=_encoded(bundle, self.data, "train", progress),
            evaluate=_elevation_error(bundle, self.data, objective.head, progress) if self.data.evaluated else None,
            export=functools.partial(_save, bundle),
        )


BundleStage = AutoencoderTraining | PictureTraining | TurntableTraining | ElevationTraining


def _of_unet(params: Tree) -> Tree:
    """The parts of a bundle that draw, of its parameters or their shapes."""
    return {part: params[part] for part in ("unet", "text_encoder")}


def _networks(config: BundleConfig, dtype: str, attention: str) -> dict[str, Any]:
    unet = dataclasses.replace(config.unet, attention_implementation=attention)
    return networks(dataclasses.replace(config, unet=unet), jnp.dtype(dtype))


def _example(config: BundleConfig, data: Rendered) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of one example of `_encoded`."""
    side, channels = config.latent_size, config.autoencoder.latent_channels
    return {
        "latents": jax.ShapeDtypeStruct((len(data.frames), side, side, channels), jnp.bfloat16),
        "tokens": jax.ShapeDtypeStruct((config.text.length,), jnp.int32),
        "elevation": jax.ShapeDtypeStruct((), jnp.float32),
    }


def _render(
    bundle: Bundle, data: Rendered, split: str, progress: Progress, transform: Callable[[jax.Array], jax.Array]
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """(transformed frames [N, F, ...], captions, elevations [N] radians) of a split, Toybox first."""
    train = split == "train"
    objects, props = (data.objects, data.props) if train else (data.held_out, data.held_out_props)
    size, chunk = bundle.config.image_size, max(1, 512 // len(data.frames))
    found = []
    if objects:
        with progress.stage(f"render Toybox, {split}") as report:
            values, captions, elevations = turntables.map_orbits(
                split,
                range(objects),
                size=size,
                frames=data.frames,
                transform=transform,
                chunk=chunk,
                progress=lambda done, total: report(done, total, ""),
            )
        found.append((np.asarray(values), captions, elevations))
    if props:
        with progress.stage(f"render props, {split}") as report:
            found.append(
                map_props(
                    data.pack,
                    split,
                    props,
                    size=size,
                    frames=data.frames,
                    transform=transform,
                    chunk=chunk,
                    progress=lambda done, total: report(done, total, ""),
                )
            )
    if not found:
        raise InputError(f"no objects to render for {split}: give data.objects, or data.pack and data.props")
    captions = [caption for _, words, _ in found for caption in words]
    return np.concatenate([each[0] for each in found]), captions, np.concatenate([each[2] for each in found])


def _encoded(bundle: Bundle, data: Rendered, split: str, progress: Progress) -> ArrayExamples:
    """Latents [N, F, h, w, z] bfloat16, tokens [N, L] and elevations [N] of a split of Toybox."""
    encoder = networks(bundle.config)["autoencoder"]
    params = jax.tree.map(jnp.asarray, bundle.params["autoencoder"])

    def encode(rgba: jax.Array) -> jax.Array:
        flat = composite_on_white(rgba.reshape(-1, *rgba.shape[2:]))
        latents = apply(encoder, params, flat, method="encode")
        return latents.reshape(*rgba.shape[:2], *latents.shape[1:]).astype(jnp.bfloat16)

    latents, captions, elevations = _render(bundle, data, split, progress, encode)
    tokens = np.asarray(bundle.tokenizer(captions))
    return ArrayExamples({"latents": latents, "tokens": tokens, "elevation": elevations.astype(np.float32)})


def _reconstruction(bundle: Bundle, data: Rendered, progress: Progress) -> Callable[[Tree], dict[str, float]]:
    """PSNR on white of about 256 pictures of held-out objects, encoded and decoded."""
    model = networks(bundle.config)["autoencoder"]
    held, _, _ = _render(bundle, data, "test", progress, turntables.to_bytes)
    pictures = held.reshape(-1, *held.shape[2:])
    true = pictures[:: max(1, len(pictures) // 256)].astype(np.float32) / 255.0

    @jax.jit
    def measure(params: Tree, true: jax.Array) -> jax.Array:
        latents = apply(model, params, composite_on_white(true), method="encode")
        made = straight_from_white(apply(model, params, latents, method="decode"))
        return psnr(composite(made), composite(true)).mean()

    return lambda params: {"test_psnr": float(measure(params["autoencoder"], true))}


def _elevation_error(
    bundle: Bundle, data: Rendered, head: ElevationHead, progress: Progress
) -> Callable[[Tree], dict[str, float]]:
    """Mean error on held-out objects, degrees."""
    held = _encoded(bundle, data, "test", progress).arrays

    @jax.jit
    def measure(params: Tree, latents: jax.Array, elevation: jax.Array) -> jax.Array:
        return jnp.rad2deg(jnp.abs(apply(head, params, latents.astype(jnp.float32)) - elevation).mean())

    return lambda params: {"test_degrees": float(measure(params["elevation"], held["latents"], held["elevation"]))}


def _views_of_held_out(bundle: Bundle, data: Rendered, progress: Progress) -> Callable[[Tree], dict[str, float]]:
    """PSNR of the views of held-out objects against their true turntables, and that of repeating the first frame."""
    true, captions, _ = _render(bundle, data, "test", progress, turntables.to_bytes)
    true = true.astype(np.float32) / 255.0
    white = jnp.asarray(composite(true))

    def evaluate(params: Tree) -> dict[str, float]:
        model = BundleModel(dataclasses.replace(bundle, params={**bundle.params, **params}))
        tasks = [
            ViewTask(views[0], caption, seed) for seed, (views, caption) in enumerate(zip(true, captions, strict=True))
        ]
        drawn = model.draw_views(tasks, QUALITIES["standard"])()
        made = jnp.asarray(composite(np.stack([each.images for each in drawn if not isinstance(each, InputError)])))
        return {
            "test_psnr": float(psnr(made[:, 1:], white[:, 1:]).mean()),
            "repeat_psnr": float(psnr(jnp.broadcast_to(white[:, :1], white[:, 1:].shape), white[:, 1:]).mean()),
        }

    return evaluate


def _save(bundle: Bundle, params: Tree, folder: pathlib.Path) -> None:
    save_bundle(folder / "bundle", bundle.config, bundle.tokenizer, {**bundle.params, **params}, dtype=jnp.float32)


def _save_measured(bundle: Bundle, params: Tree, rgba: np.ndarray, folder: pathlib.Path) -> None:
    """Measures the spread of the latents and the usual size of objects, and writes the bundle."""
    model = networks(bundle.config)["autoencoder"]
    moments = jax.jit(lambda rgba: apply(model, params["autoencoder"], rgba, method="moments")[0])
    rows = rgba[:: max(1, len(rgba) // 4096)][:4096].astype(np.float32) / 255.0
    means = jnp.concatenate(
        [moments(composite_on_white(jnp.asarray(rows[i : i + 256]))) for i in range(0, len(rows), 256)]
    )
    spread = {"latent_mean": means.mean((0, 1, 2)), "latent_std": means.std((0, 1, 2))}
    fractions = [turntables.box_fraction(picture) for picture in rgba[:2048] / 255.0]
    config = dataclasses.replace(bundle.config, target_fraction=round(float(np.nanmedian(fractions)), 4))
    measured = {"autoencoder": {**params["autoencoder"], **spread}}
    _save(dataclasses.replace(bundle, config=config), measured, folder)
