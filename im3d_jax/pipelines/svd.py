"""SVD, SVD-XT, SV3D_u and SV3D_p, ready to draw orbits: a `ViewModel` of foreign video networks.

The networks see pictures on white and in their own order of frames; they read no prompts and know no alpha.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from im3d_jax import parallel, seeds
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
from im3d_jax.digests import file_hash
from im3d_jax.errors import InputError, WeightsError
from im3d_jax.images.alpha import composite
from im3d_jax.images.mattes import cut_out_views
from im3d_jax.models import StableUNet
from im3d_jax.models.calls import apply
from im3d_jax.models.clip import CLIPVision
from im3d_jax.models.clip_images import condition_pixels
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.pipelines import memory as device_memory
from im3d_jax.pipelines.base import ONE, Batch, Direction, Drawing, Drawn, Orbit, Quality, ViewTask, fetch, place
from im3d_jax.pipelines.clip_elevation import Head, find_head, pooled_features
from im3d_jax.pipelines.features import encoder_features
from im3d_jax.pipelines.memory import Memory
from im3d_jax.pipelines.noise import row_noise
from im3d_jax.pipelines.residency import ChunkedAutoencoder, Parameters, unet_of, working_dtype
from im3d_jax.pipelines.sources import CheckpointSource, Source, describe_source
from im3d_jax.progress import Report
from im3d_jax.reconstruction import DRAWN_VIEWS_STRATEGY, FitConfig, orbit_search
from im3d_jax.weights import load_bundle
from im3d_jax.weights.encoders import encoder_network


# SVD itself draws no orbits; checkpoints fine-tuned on them (SVD-MV) keep its layout.
FAMILIES = ("svd", "svd_xt", "sv3d_u", "sv3d_p")
PROCESS = Karras()
SOLVERS = {"euler": euler_step, "dpmpp": dpmpp_2m_step}
# Longer side of the prepared object's box over the picture's side.
TARGET_FRACTION = 0.9


@dataclasses.dataclass(frozen=True)
class Rig:
    """Where the cameras of the families' orbits stand.

    Attributes:
        fov_deg: Horizontal field of view; SV3D's training renders had 33.8 degrees (arXiv 2403.12008, section 3).
        distance: Of the cameras from the origin. It is free up to the asset's scale; at 3.44 the unit sphere just fits.
        elevation_deg: Where the search for the elevation starts.
    """

    fov_deg: float = 33.8
    distance: float = 3.44
    elevation_deg: float = 10.0


RIG = Rig()


@dataclasses.dataclass(frozen=True)
class OrbitQuality:
    """What a quality stands for; `ViewModel.view_settings` fills in what the family's authors published.

    Attributes:
        steps_percent: Solver steps of the orbit, as a share of the authors' own.
        refine: Solver steps of each refinement.
        solver: Takes the steps.
        fit: Of the fit.
        fit_side: Longest side of the views that the fit sees, pixels.
        refresh: None: a refinement's views are the targets.
        refine_sigmas: Noise scale at which each refinement starts, on latents of unit variance; the last one serves all
            later rounds. IM-3D publishes no level: chosen so that shape stays and texture is drawn anew.
        search: How elevation and direction are found.
        views: Solver steps of the orbit.
        frames: Views of the orbit.
        guidance: Curve over the frames, its low and its high end.
    """

    steps_percent: int
    refine: int
    solver: Literal["euler", "dpmpp"]
    fit: FitConfig
    fit_side: int = 512
    refresh: None = None
    refine_sigmas: tuple[float, ...] = (2.0, 1.0)
    search: orbit_search.Search = orbit_search.Search()
    views: int = 0
    frames: int = 0
    guidance: tuple[Literal["constant", "linear", "triangle"], float, float] = ("constant", 1.0, 1.0)


def _fit(initial: int, capacity: int, **changes: Any) -> FitConfig:
    """The fit of 512 x 512 views: IM-3D's steps with four views in each and room for finer gaussians."""
    # Their rigs are found, not given: where cameras are a degree off, masks would cut into the object, so that
    # `outside_views` stays 0.
    strategy = dataclasses.replace(DRAWN_VIEWS_STRATEGY, growth=0.11)
    return FitConfig(views_per_step=4, initial=initial, capacity=capacity, strategy=strategy, **changes)


QUALITIES: dict[Quality, OrbitQuality] = {
    "draft": OrbitQuality(
        40, 5, "dpmpp", _fit(5_000, 20_000, steps=300, densify_every=25, densify_from=25, densify_until=250)
    ),
    "standard": OrbitQuality(100, 10, "euler", _fit(10_000, 60_000)),
    "best": OrbitQuality(100, 20, "euler", _fit(10_000, 100_000, steps=2400, densify_until=2000)),
}


class OrbitModel:
    """A foreign video model ready to draw orbits; see `ViewModel` for its methods.

    Args:
        source: Parameters and their preset.
        memory: What is done at once.
        head: Estimates the elevation of views from the encoder's features, where the search starts then.
        head_file: Of the head, for the identity.
    """

    family = "svd"
    directions: tuple[Direction, ...] = ("ccw", "cw")
    target_fraction = TARGET_FRACTION

    def __init__(self, source: Source, memory: Memory, *, head: Head | None = None, head_file: str | None = None):
        preset = source.preset
        self.preset, self.memory_preset = preset, memory
        self.name, self.remark = source.name, source.remark
        self.memory: str | None = memory.name
        self.image_size, self.num_views = preset.height, preset.frames
        self._source, self._head, self._head_file = source, head, head_file
        dtype = working_dtype()
        self._parameters = Parameters(source, dtype, memory.keep)
        self._placed: dict[tuple[Mesh, str], dict] = {}
        self._unet = unet_of(preset, dtype)
        self._autoencoder = ChunkedAutoencoder(preset, self._parameters, memory, dtype)
        assert preset.image_encoder is not None  # all of `FAMILIES` have one
        self._encoder = encoder_network(preset.image_encoder, dtype)

    def vocabulary(self) -> dict[str, list[str]]:
        """Empty: the networks read no prompts."""
        return {}

    def prompt_remarks(self, prompt: str) -> list[str]:
        """Says that the prompt is not read."""
        return [f"the prompt is not read: {self.name} draws from the picture alone"]

    def check_prompt(self, prompt: str) -> None:
        """Nothing: prompts are not read."""

    def describe(self) -> list[str]:
        """Networks, elevation head, and the estimated memory of each preset."""
        known = (
            "none" if self._head is None else f"off by {math.degrees(self._head.error):.1f} degrees on held-out renders"
        )
        room = device_memory.device_gib()
        lines = describe_source(self._source, "draws orbits (--model)")
        lines += [f"  elevation head: {known}"]
        lines += [f"  device memory: {'unknown' if room is None else f'{room:.1f} GiB'}; estimated peaks:"]
        for name, memory in device_memory.MEMORIES.items():
            peaks = estimate(self._source, memory)
            lines.append(f"    --memory={name}: " + ", ".join(f"{stage} {gib:.1f} GiB" for stage, gib in peaks.items()))
        return lines

    def view_settings(self, quality: Quality) -> OrbitQuality:
        """See `ViewModel`."""
        preset, chosen = self.preset, QUALITIES[quality]
        return dataclasses.replace(
            chosen,
            views=max(1, preset.steps * chosen.steps_percent // 100),
            frames=preset.frames,
            guidance=(preset.guidance, preset.guidance_low, preset.guidance_high),
        )

    def identity(self, *, elevation_known: bool) -> dict[str, Any]:
        """See `ViewModel`; the elevation head counts where it is used."""
        facts = {"name": self.preset.name, "sha256": self._source.sha256()}
        if not elevation_known and self._head_file is not None:
            facts["elevation_head_sha256"] = file_hash(self._head_file)
        return facts

    def rows_per_device(self) -> int:
        """See `ViewModel`: one orbit fills a device."""
        return 1 if self.memory_preset.keep else 0

    def draw_views(
        self,
        tasks: Sequence[ViewTask],
        settings: OrbitQuality,
        *,
        batch: Batch = ONE,
        report: Report | None = None,
    ) -> Drawing:
        """See `ViewModel`.

        Raises:
            ValueError: A task has no picture.
        """
        rows = batch.fill(tasks)
        given = self._conditions(rows, batch)
        noise = row_noise([row.seed for row in rows], seeds.VIEWS, self.latent_shape()[1:])
        x = initial_sample(place(noise, batch), 1.0, PROCESS)
        grid = time_grid(settings.views, last=0.0)
        return self._drawn(x, grid, settings, given, tasks, batch, report, "views")

    def refine_views(
        self,
        renders: Sequence[np.ndarray],
        tasks: Sequence[ViewTask],
        settings: OrbitQuality,
        *,
        round: int,
        batch: Batch = ONE,
        report: Report | None = None,
    ) -> Drawing:
        """See `ViewModel`; the noise level is `OrbitQuality.refine_sigmas`."""
        sigmas, rows = settings.refine_sigmas, batch.fill(tasks)
        start = float(PROCESS.t_of_lambda(-math.log(sigmas[min(round, len(sigmas)) - 1])))
        given = self._conditions(rows, batch)
        clean = []
        for frames in batch.fill(renders):
            latents = self._autoencoder.encode(composite(jnp.asarray(frames))) * self.preset.autoencoder.scaling_factor
            clean.append(conditions.to_network_order(latents[None], self.preset.given_view))
        noise = row_noise([row.seed for row in rows], seeds.REFINE, self.latent_shape()[1:], round)
        x = add_noise(place(jnp.concatenate(clean), batch), place(noise, batch), start, PROCESS)
        grid = time_grid(settings.refine, start=start, last=0.0)
        return self._drawn(x, grid, settings, given, tasks, batch, report, f"refine {round}")

    def find_orbit(
        self,
        views: np.ndarray,
        settings: OrbitQuality,
        *,
        seed: int,
        elevation: float | None,
        direction: Direction,
        report: Report | None,
    ) -> Orbit:
        """Searches what is not given by short fits, see `reconstruction.orbit_search`; see `ViewModel`.

        With an elevation head, the search starts at its estimate and keeps within its reach; without, at the rig's
        elevation.
        """
        reach = None
        start = math.radians(RIG.elevation_deg) if elevation is None else elevation
        if elevation is None and self._head is not None:
            features = pooled_features(self._encoder, self._parameters("encoder"), jnp.asarray(views))
            start, reach = float(self._head(np.asarray(features))), self._head.reach
            self._parameters.release("encoder")
        found = orbit_search.find_orbit(
            np.asarray(views),
            elevation=start,
            reach=reach,
            directions=orbit_search.DIRECTIONS if direction == "auto" else (direction,),
            distance=RIG.distance,
            fov=math.radians(RIG.fov_deg),
            key=seeds.stream(seed, seeds.ORBIT),
            fixed=elevation is not None,
            search=settings.search,
            progress=report,
        )
        cameras = orbit_search.rig_cameras(
            found.elevation,
            found.direction,
            views=len(views),
            distance=RIG.distance,
            fov=math.radians(RIG.fov_deg),
            width=views.shape[2],
            height=views.shape[1],
        )
        facts, remark = _report_of(found, elevation is not None)
        return Orbit(cameras, found.elevation, facts, (remark,))

    def perceptual(self) -> tuple[Perceptual, str]:
        """Features of the bundled autoencoder, as these networks have none that suit; see `ViewModel`."""
        return self._features, "encoder features of the bundled autoencoder"

    @functools.cached_property
    def _features(self) -> Perceptual:
        return encoder_features(load_bundle("tiny"))

    def release(self) -> None:
        """See `ViewModel`."""
        self._parameters.release("unet", "vae", "encoder")

    def parameters(self, part: str) -> dict:
        """Those of ``unet``, ``vae`` or ``encoder``, on the device."""
        return self._parameters(part)

    def encode(self, rgba: np.ndarray | jax.Array) -> jax.Array:
        """Pictures [B, H, W, 4] to the latents [B, h, w, z] that the video network sees."""
        return self._autoencoder.encode(composite(jnp.asarray(rgba))) * self.preset.autoencoder.scaling_factor

    def latent_shape(self) -> tuple[int, ...]:
        """Of one video's latents, [1, T, h, w, z]."""
        autoencoder = self.preset.autoencoder
        side = self.image_size // autoencoder.factor
        return (1, self.num_views, side, side, autoencoder.latent_channels)

    def _on(self, part: str, batch: Batch) -> dict:
        """Parameters of a part on every device of the batch's mesh."""
        if batch.mesh is None:
            return self._parameters(part)
        if (batch.mesh, part) not in self._placed:
            whole = parallel.replicated(batch.mesh)
            self._placed[batch.mesh, part] = jax.device_put(self._parameters(part), whole)
        return self._placed[batch.mesh, part]

    def _conditions(self, rows: Sequence[ViewTask], batch: Batch) -> dict[str, jax.Array]:
        """What every step is told about the pictures; the noise on each is the same in all rounds."""
        told = [self.conditions_of(row) for row in rows]
        return place(jax.tree.map(lambda *parts: jnp.concatenate(parts), *told), batch)

    def conditions_of(self, task: ViewTask) -> dict[str, jax.Array]:
        """Context, latent and scalar conditions of one task, each with a leading axis of 1.

        Raises:
            ValueError: The task has no picture.
        """
        if task.picture is None:
            raise ValueError(f"{self.name} starts from a picture, and the task has none")
        clean = composite(jnp.asarray(task.picture)[None])
        key = seeds.stream(task.seed, seeds.CONDITION)
        context = _read(self._encoder, self._parameters("encoder"), clean)
        self._parameters.release("encoder")
        noised = conditions.augment_image(clean, jax.random.normal(key, clean.shape), self.preset.noise_strength)
        latent = self._autoencoder.encode(noised)
        return {"context": context, "latent": latent, "vector": self._vector(task.elevation)}

    def _vector(self, elevation: float | None) -> jax.Array:
        strength = self.preset.noise_strength
        if "polar" in self.preset.vector:
            elevation = math.radians(RIG.elevation_deg) if elevation is None else elevation
            azimuths = conditions.sv3d_orbit(self.num_views)[None]
            elevations = np.full_like(azimuths, elevation)
            return jnp.asarray(conditions.sv3d_pose_vector(elevations, azimuths, strength=strength))
        if "motion_bucket" in self.preset.vector:
            return jnp.asarray(conditions.svd_vector(1, strength=strength))
        return jnp.asarray(conditions.sv3d_vector(1, strength=strength))

    def _drawn(
        self,
        x: jax.Array,
        grid: np.ndarray,
        settings: OrbitQuality,
        given: dict[str, jax.Array],
        tasks: Sequence[ViewTask],
        batch: Batch,
        report: Report | None,
        note: str,
    ) -> Drawing:
        """Denoises [B, T, h, w, z] along the grid, decodes the videos and cuts the objects out."""
        curve, low, high = settings.guidance
        scales = frame_scales(curve, self.num_views, low, high)
        params, together = self._on("unet", batch), self.memory_preset.branches_together
        if report is None:
            levels = schedule(grid, PROCESS)
            with parallel.using(batch.mesh):
                latents = sample(self._unet, settings.solver, together, params, x, levels, given, scales)
        else:
            progress = lambda state, total: report(int(state.index), total, note)  # noqa: E731

            def step(state, levels):
                with parallel.using(batch.mesh):
                    return _step(self._unet, settings.solver, together, params, state, levels, given, scales)

            latents = sample_loop(step, init_state(x), grid, PROCESS, progress=progress)
            del step
        del params
        self._parameters.release("unet")
        scaled = latents / self.preset.autoencoder.scaling_factor
        videos = self._autoencoder.decode_batch(self._on("vae", batch), scaled)
        self._parameters.release("vae")
        count = network_evaluations(Guidance(image=2.0), len(grid) - 1)

        def finish() -> list[Drawn | InputError]:
            pictures = conditions.from_network_order(fetch(videos), self.preset.given_view)
            rows = zip(np.asarray(pictures), tasks, strict=False)
            return [self._cut_out(row, task, count, note) for row, task in rows]

        return finish

    def _cut_out(self, colours: np.ndarray, task: ViewTask, evaluations: int, note: str) -> Drawn | InputError:
        if not np.isfinite(colours).all():
            return WeightsError(f"{self.name} drew NaN or infinite values: check its files, or download them again")
        views, uneven = cut_out_views(colours)
        views[0] = task.picture
        remark = f"{note}: {uneven} of {len(views)} views have no plain background; cut out by distance to white"
        return Drawn(views, evaluations, (remark,) if uneven else ())


def estimate(source: Source, memory: Memory) -> dict[str, float]:
    """Peak memory of each stage in GiB, the fit of `standard` included; see `pipelines.memory.estimate`."""
    side, settings = source.preset.height, QUALITIES["standard"]
    itemsize = jnp.dtype(working_dtype()).itemsize
    fit_side = min(side, settings.fit_side)
    return device_memory.estimate(source.preset, memory, itemsize, (side, side), settings.fit, fit_side)


def open_orbit_model(source: CheckpointSource, memory: str | None = None) -> OrbitModel:
    """SVD, SVD-XT, SV3D_u or SV3D_p, or a checkpoint fine-tuned from one of them, ready to draw.

    Args:
        source: Of one of `FAMILIES`.
        memory: One of `memory.MEMORIES`; by default the roomiest that fits the device.

    Raises:
        WeightsError: The elevation head beside the weights does not fit them, or the device has too little memory.
    """
    room = device_memory.device_gib()
    chosen = device_memory.choose(memory, source.preset.name, lambda each: estimate(source, each), room=room)
    head = find_head(source)
    return OrbitModel(source, chosen, head=head, head_file=None if head is None else str(source.head_file))


def _report_of(found: orbit_search.Orbit, given: bool) -> tuple[dict[str, Any], str]:
    """Facts of a search for run.json, and the line for the user."""
    elevation = math.degrees(found.elevation)
    facts: dict[str, Any] = {
        "elevation_deg": round(elevation, 3),
        "elevation": "given" if given else "fitted",
        "direction": found.direction,
        "losses": dict(found.losses),
    }
    how = facts["elevation"]
    if found.start is not None:
        start = math.degrees(found.start)
        by = "rig's default" if found.reach is None else "CLIP features"
        facts |= {"start_deg": round(start, 3), "start": by}
        how += f" from {start:.1f}, "
        if found.reach is None:
            how += "the default start: there is no elevation head beside the weights"
        else:
            facts["reach_deg"] = round(math.degrees(found.reach), 3)
            how += f"estimated from CLIP features, within {facts['reach_deg']:.1f} of it"
    compared = ", ".join(f"{name} {loss:.4f}" for name, loss in found.losses.items())
    chosen = f"loss after a short fit: {compared}" if len(found.losses) > 1 else "given"
    return facts, f"the orbit turns {found.direction} ({chosen}) at {elevation:.1f} degrees ({how})"


# Networks are static: models of one family share compiled programs.
@functools.partial(jax.jit, static_argnums=0)
def _read(encoder: CLIPVision, params: dict, images: jax.Array) -> jax.Array:
    """The context [B, 1, D] of images [B, H, W, 3]."""
    pixels = condition_pixels(images, encoder.config.image_size)
    return apply(encoder, params, pixels).pooled[:, None].astype(jnp.float32)


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
        return apply(network, params, x, times, row["context"], row["vector"])

    def unet(x, time):
        if together:
            return rows(x, time, stacked)
        one = lambda pair: rows(pair[0][None], time, jax.tree.map(lambda leaf: leaf[None], pair[1]))[0]  # noqa: E731
        return jax.lax.map(one, (x, stacked))

    denoise = frame_guided_denoiser(precondition(unet, PROCESS), scales, PROCESS, "edm_v")
    return sampler_step(denoise, state, levels, solver=SOLVERS[solver])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def sample(
    network: StableUNet, solver: str, together: bool, params: dict, x: jax.Array, levels, given: dict, scales: jax.Array
) -> jax.Array:
    """The samples at the end of a schedule, all steps in one program.

    Args:
        network: The UNet.
        solver: One of `SOLVERS`.
        together: Whether both branches of guidance go through the network at once.
        params: Of the network.
        x: [B, T, h, w, z] noise.
        levels: Of `diffusion.schedule`.
        given: Conditions, each with a leading axis of B; see `OrbitModel.conditions_of`.
        scales: [T] guidance scales.
    """

    def step(state, row):
        return _step(network, solver, together, params, state, row, given, scales), None

    return jax.lax.scan(step, init_state(x), levels)[0].x
