"""Models of this project, ready to draw: `tiny`, which ships with it, or the folder of another bundle.

A bundle draws first pictures and orbits, so one object is both a `PictureModel` and a `ViewModel`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from im3d_jax import parallel, seeds
from im3d_jax.diffusion import (
    Denoiser,
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
from im3d_jax.errors import InputError, WeightsError
from im3d_jax.images.alpha import composite_on_white, straight_from_white
from im3d_jax.models import TinyUNet
from im3d_jax.models.calls import apply
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.pipelines.base import (
    ONE,
    Batch,
    Direction,
    Drawing,
    Drawn,
    Orbit,
    Quality,
    ViewTask,
    fetch,
    lost_end,
    place,
)
from im3d_jax.pipelines.features import encoder_features
from im3d_jax.pipelines.noise import row_noise
from im3d_jax.pipelines.prompts import nothing_known
from im3d_jax.progress import Report
from im3d_jax.reconstruction import FitConfig, HullStart
from im3d_jax.reconstruction.refresh import Refresh
from im3d_jax.weights import Bundle, networks
from im3d_jax.weights.identify import bundle_hash
from splat import orbit_cameras


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How one kind of drawing samples.

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
        """The guidance with the conditions that are given."""
        return Guidance(self.image if image else None, self.prompt if prompt else None, self.rescale)


@dataclasses.dataclass(frozen=True)
class BundleQuality:
    """What a quality stands for.

    Attributes:
        picture: Of the first picture.
        views: Of the orbit.
        refine: Of each refinement.
        fit: Of the fit.
        fit_side: None: views are fitted at their own size.
        refresh: How a refinement's views become targets; None: they are the targets.
    """

    picture: Sampling
    views: Sampling
    refine: Sampling
    fit: FitConfig
    fit_side: None = None
    refresh: Refresh | None = Refresh()


# One view alone may be wrong about what is there: two of sixteen seldom are.
_FIT = FitConfig(outside_views=2, least_pull=0.25, hull=HullStart())
# Measured on held-out objects (docs/results.md, "How the sampling was chosen"). Views need no guidance: 25.42 dB
# without and 25.41 with a picture's 2 and a prompt's 1.5, at a third of the evaluations. Of the refinement's starts
# 0.15, 0.3 and 0.5 the first keeps most of what the views show and makes them the most consistent; 3, 5 and 10 steps
# of it come to the same. First pictures were judged by eye: of 2, 3 and 5 for the prompt's guidance and 10, 20 and 25
# steps, 20 at 5 drew the cleanest shapes.
QUALITIES: dict[Quality, BundleQuality] = {
    "draft": BundleQuality(
        picture=Sampling(10, prompt=5.0),
        views=Sampling(8),
        refine=Sampling(3, start=0.15),
        fit=dataclasses.replace(
            _FIT, steps=300, densify_every=25, densify_from=25, densify_until=250, hull=HullStart(count=6_000)
        ),
    ),
    "standard": BundleQuality(
        picture=Sampling(20, prompt=5.0), views=Sampling(10), refine=Sampling(3, start=0.15), fit=_FIT
    ),
    "best": BundleQuality(
        picture=Sampling(20, prompt=5.0),
        views=Sampling(20),
        refine=Sampling(5, start=0.15),
        fit=dataclasses.replace(_FIT, steps=2400, views_per_step=2, densify_until=2000),
    ),
}
# Usual rows of a batch on a device.
ROWS = {"cpu": 2}
ROWS_OF_ACCELERATORS = 8


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


class BundleModel:
    """A bundle ready to draw; see `PictureModel` and `ViewModel` for its methods.

    Args:
        bundle: Weights and sizes.
        dtype: Of the networks' activations.
    """

    family = "bundle"
    remark: str = ""
    memory: str | None = None
    directions: tuple[Direction, ...] = ("ccw",)

    def __init__(self, bundle: Bundle, dtype: DTypeLike = jnp.float32):
        self.bundle = bundle
        self.name = bundle.name
        self.config = bundle.config
        self.image_size = bundle.config.image_size
        self.num_views = bundle.config.unet.frames
        self.target_fraction = bundle.config.target_fraction
        self.params = jax.device_put(bundle.params)
        self._placed: dict[Mesh, dict] = {}
        try:
            self._dtype = jnp.dtype(dtype)
        except TypeError:
            raise WeightsError(f"dtype={dtype}: expected float32, bfloat16 or float16") from None
        nets = networks(bundle.config, dtype)
        unet, autoencoder, elevation = nets["unet"], nets["autoencoder"], nets["elevation"]

        def encode(params, rgba):
            return apply(autoencoder, params, composite_on_white(rgba), method="encode")

        def decode(params, latents):
            return straight_from_white(apply(autoencoder, params, latents, method="decode"))

        def one_step(params, state, levels, given, guidance, temporal):
            denoise = denoiser(unet, self.config.process, params, guidance, given, temporal)
            return sampler_step(denoise, state, levels)

        def all_steps(params, x, given, sampling, guidance, temporal):
            return sample(unet, self.config.process, params, x, given, sampling, guidance, temporal)

        self._encode, self._decode = jax.jit(encode), jax.jit(decode)
        self._read = jax.jit(lambda params, tokens: apply(nets["text_encoder"], params, tokens))
        self._elevation = jax.jit(lambda params, latents: apply(elevation, params, latents))
        self._step = jax.jit(one_step, static_argnames=("guidance", "temporal"))
        self._scan = jax.jit(all_steps, static_argnames=("sampling", "guidance", "temporal"))

    def vocabulary(self) -> dict[str, list[str]]:
        """{word that the model was trained on: other words that prompts may use for it}; "next to" is one word."""
        known: dict[str, list[str]] = {word: [] for word in self.bundle.tokenizer.words()}
        for other, word in self.bundle.tokenizer.aliases().items():
            known.setdefault(word, []).append(other)
        return dict(sorted(known.items()))

    def prompt_remarks(self, prompt: str) -> list[str]:
        """Names the words that are dropped and the end that does not fit."""
        lines = []
        if unknown := self.bundle.tokenizer.unknown_words(prompt):
            words = ", ".join(unknown)
            lines.append(f"words outside the model's vocabulary, ignored: {words}; see im3d doctor --vocabulary")
        if lost := self.bundle.tokenizer.lost_text(prompt):
            lines.append(lost_end(lost))
        return lines

    def check_prompt(self, prompt: str) -> None:
        """See `Reader`: one known noun is enough, colours and sizes alone are not."""
        if line := nothing_known(prompt, self.bundle.tokenizer, self.name):
            raise InputError(line)

    def describe(self) -> list[str]:
        """The weights' files, one line each."""
        folder = self.bundle.folder
        files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
        lines = [f"weights of {self.name}: in {folder}"]
        lines += [f"  {file.name}: {file.stat().st_size / 2**20:.1f} MiB" for file in files]
        return [*lines, "  complete: they load"]

    def view_settings(self, quality: Quality) -> BundleQuality:
        """See `ViewModel`."""
        return QUALITIES[quality]

    def picture_settings(self, quality: Quality) -> Sampling:
        """See `PictureModel`."""
        return QUALITIES[quality].picture

    def picture_identity(self) -> dict[str, Any]:
        """See `PictureModel`."""
        return self._identity

    def identity(self, *, elevation_known: bool) -> dict[str, Any]:
        """See `ViewModel`."""
        return self._identity

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        name = "tiny" if self.name == "tiny" else "bundle"
        # Activations of another type than the usual one are other results.
        other = {} if self._dtype == jnp.float32 else {"dtype": str(self._dtype)}
        return {"name": name, "sha256": bundle_hash(self.bundle.folder), **other}

    def rows_per_device(self) -> int:
        """See `ViewModel`."""
        return ROWS.get(jax.default_backend(), ROWS_OF_ACCELERATORS)

    def draw_pictures(
        self,
        prompts: Sequence[str],
        row_seeds: Sequence[int],
        settings: Sampling,
        *,
        batch: Batch = ONE,
        report: Report | None = None,
    ) -> Drawing:
        """Draws with alpha, in the size and place that views are drawn from; see `PictureModel`."""
        params = self._on(batch)
        given = self._conditions(params, batch.fill(prompts), batch)
        x = self._noise(batch.fill(row_seeds), seeds.PICTURE, 1, batch)
        latents, count = self._sample(params, x, settings, given, False, True, report, "image")
        pictures = self._decode(params["autoencoder"], latents[:, 0])
        return lambda: [Drawn(picture, count) for picture in fetch(pictures)[: len(prompts)]]

    def draw_views(
        self,
        tasks: Sequence[ViewTask],
        settings: BundleQuality,
        *,
        batch: Batch = ONE,
        report: Report | None = None,
    ) -> Drawing:
        """See `ViewModel`."""
        x = self._noise([task.seed for task in batch.fill(tasks)], seeds.VIEWS, self.num_views, batch)
        return self._draw(x, tasks, settings.views, batch, report, "views")

    def refine_views(
        self,
        renders: Sequence[np.ndarray],
        tasks: Sequence[ViewTask],
        settings: BundleQuality,
        *,
        round: int,
        batch: Batch = ONE,
        report: Report | None = None,
    ) -> Drawing:
        """See `ViewModel`."""
        params, sampling = self._on(batch), settings.refine
        frames = place(jnp.asarray(np.concatenate(batch.fill(renders))), batch)
        clean = self._encode(params["autoencoder"], frames)
        clean = clean.reshape(-1, self.num_views, *clean.shape[1:])
        rows = [task.seed for task in batch.fill(tasks)]
        noise = self._noise(rows, seeds.REFINE, self.num_views, batch, round)
        x = add_noise(clean, noise, sampling.start, self.config.process)
        return self._draw(x, tasks, sampling, batch, report, f"refine {round}")

    def find_orbit(
        self,
        views: np.ndarray,
        settings: BundleQuality,
        *,
        seed: int,
        elevation: float | None,
        direction: Direction,
        report: Report | None,
    ) -> Orbit:
        """The project's own rig, its elevation given or estimated by the bundle's head; see `ViewModel`."""
        given = elevation is not None
        if elevation is None:
            latents = self._encode(self.params["autoencoder"], jnp.asarray(views))[None]
            elevation = float(self._elevation(self.params["elevation"], latents)[0])
        cameras = orbit_cameras(elevation, views=len(views), height=views.shape[1], width=views.shape[2])
        facts = {
            "elevation_deg": round(math.degrees(elevation), 3),
            "elevation": "given" if given else "estimated",
            "direction": "ccw",
        }
        return Orbit(cameras, elevation, facts)

    def perceptual(self) -> tuple[Perceptual, str]:
        """Features of the bundle's own autoencoder; see `ViewModel`."""
        return encoder_features(self.bundle), "autoencoder encoder features"

    def release(self) -> None:
        """Nothing: the networks are small."""

    def _on(self, batch: Batch) -> dict:
        """The parameters on every device of the batch's mesh."""
        if batch.mesh is None:
            return self.params
        if batch.mesh not in self._placed:
            self._placed[batch.mesh] = jax.device_put(self.params, parallel.replicated(batch.mesh))
        return self._placed[batch.mesh]

    def _noise(
        self, row_seeds: Sequence[int], number: int, frames: int, batch: Batch, round: int | None = None
    ) -> jax.Array:
        """Normal noise [B, frames, h, w, z], each row as its seed gives it alone."""
        size = self.config.latent_size
        shape = (frames, size, size, self.config.autoencoder.latent_channels)
        return place(row_noise(row_seeds, number, shape, round), batch)

    def _conditions(
        self, params: dict, prompts: Sequence[str], batch: Batch, pictures: Sequence[np.ndarray] | None = None
    ) -> Conditions:
        """Encodes B prompts (empty: none) and, when given, B first pictures [H, W, 4]."""
        tokens = place(jnp.asarray(self.bundle.tokenizer(prompts)), batch)
        empty = place(jnp.asarray(self.bundle.tokenizer([""] * len(prompts))), batch)
        picture = None
        if pictures is not None:
            picture = self._encode(params["autoencoder"], place(jnp.asarray(np.stack(pictures)), batch))
        text = params["text_encoder"]
        (context, mask), (no_context, no_mask) = self._read(text, tokens), self._read(text, empty)
        return Conditions(context, mask, no_context, no_mask, picture)

    def _draw(
        self,
        x: jax.Array,
        tasks: Sequence[ViewTask],
        sampling: Sampling,
        batch: Batch,
        report: Report | None,
        note: str,
    ) -> Drawing:
        """Denoises [B, T, h, w, z] from `sampling.start` and decodes the views."""
        given, prompted = {task.picture is not None for task in tasks}, {task.prompt is not None for task in tasks}
        if len(given) > 1 or len(prompted) > 1:
            raise ValueError("tasks with and without a prompt or a picture cannot share a batch; split them")
        if given == prompted == {False}:
            raise ValueError("a task has neither prompt nor picture; give one of them or both")
        params, rows = self._on(batch), batch.fill(tasks)
        pictures = [row.picture for row in rows if row.picture is not None] or None
        told = self._conditions(params, [row.prompt or "" for row in rows], batch, pictures)
        latents, count = self._sample(params, x, sampling, told, True, prompted == {True}, report, note)
        views = self._decode(params["autoencoder"], latents.reshape(-1, *latents.shape[2:]))

        def finish() -> list[Drawn]:
            drawn = np.array(fetch(views)).reshape(len(rows), self.num_views, *views.shape[1:])
            for row, task in zip(drawn, tasks, strict=False):
                if task.picture is not None:
                    row[0] = task.picture
            return [Drawn(row, count) for row in drawn[: len(tasks)]]

        return finish

    def _sample(
        self,
        params: dict,
        x: jax.Array,
        sampling: Sampling,
        given: Conditions,
        temporal: bool,
        prompt: bool,
        report: Report | None,
        note: str,
    ) -> tuple[jax.Array, int]:
        """Clean latents [B, T, h, w, z], and the network evaluations of each row."""
        guidance = sampling.guidance(temporal and given.picture is not None, prompt)
        count = network_evaluations(guidance, sampling.steps)
        if report is None:
            return self._scan(params["unet"], x, given, sampling, guidance, temporal), count

        def step(state, levels):
            return self._step(params["unet"], state, levels, given, guidance, temporal)

        grid = time_grid(sampling.steps, start=sampling.start)
        progress = lambda state, total: report(int(state.index), total, note)  # noqa: E731
        return sample_loop(step, init_state(x), grid, self.config.process, progress=progress), count


def sample(
    unet: TinyUNet,
    process: NoiseProcess,
    params: dict,
    x: jax.Array,
    given: Conditions,
    sampling: Sampling,
    guidance: Guidance,
    temporal: bool,
) -> jax.Array:
    """The clean latents [B, T, h, w, z] of all steps in one program; see `denoiser`."""
    denoise = denoiser(unet, process, params, guidance, given, temporal)
    return sample_scan(denoise, x, time_grid(sampling.steps, start=sampling.start), process)


def denoiser(
    unet: TinyUNet,
    process: NoiseProcess,
    params: dict,
    guidance: Guidance,
    given: Conditions,
    temporal: bool,
) -> Denoiser:
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
            return apply(unet, params, x, time, context, mask, temporal=False)
        if picture is None:
            condition, has_image = jnp.zeros_like(x[:, 0]), jnp.zeros(x.shape[:1])
        else:
            condition, has_image = picture
        return apply(unet, params, x, time, context, mask, condition=condition, has_image=has_image)

    return guided_denoiser(network, guidance, process, "v")
