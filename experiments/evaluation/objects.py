"""The figures of one object beside its true turntable."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.evaluation.comparisons import Judges, compare
from experiments.evaluation.results import Results, one_line
from im3d_jax.data.toybox import Toybox, ToyObject, render_object
from im3d_jax.errors import InputError
from im3d_jax.generation.asset import Asset
from im3d_jax.generation.loop import AssetRefs, asset_stages
from im3d_jax.generation.plan import PerceptualChoice, Plan, make_plan
from im3d_jax.generation.request import AssetRequest
from im3d_jax.generation.runners import Loop, MemoryRunner, enough_memory
from im3d_jax.generation.stages import Result
from im3d_jax.images.files import as_stored, encode_png
from im3d_jax.output.renders import render_views
from im3d_jax.output.sheets import contact_sheet
from im3d_jax.pipelines import Orbit, Pipeline, Quality
from im3d_jax.pipelines.base import ViewSettings
from im3d_jax.progress import Progress
from splat import Cameras, orbit_cameras


_VIEW_STAGES = ("input", "views", "cameras")


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
    """What was made of one object.

    Attributes:
        assets: By number of refinements.
        orbit: Cameras of the views.
        view_seconds: That the views and their cameras took.
        view_evaluations: Network evaluations of the views.
    """

    assets: Mapping[int, Asset]
    orbit: Orbit
    view_seconds: float
    view_evaluations: int


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What is evaluated, and by what.

    Attributes:
        pipeline: Draws.
        quality: Of every request.
        settings: Of the view model: those of the quality, perhaps changed by `change_sampling`.
        rounds: Numbers of refinements to compare, each 0 to 2.
        features: What the fits and the perceptual distance compare.
        judges: Further networks that measure.
    """

    pipeline: Pipeline
    quality: Quality
    settings: ViewSettings
    rounds: Sequence[int]
    features: PerceptualChoice
    judges: Judges = Judges()

    def make(self, image: np.ndarray, caption: str, seed: int) -> Made:
        """Runs the loop of `im3d generate` for each number of refinements; what they have in common is made once.

        Args:
            image: [H, W, 4] the first view, straight alpha. It is not centred anew.
            caption: The prompt.
            seed: Of the request.
        """
        request = AssetRequest(caption, image, seed, self.quality)
        plan = make_plan(request, self.pipeline, lpips=self.features)
        plan = dataclasses.replace(plan, views=self.settings)
        runner, assets, orbit = MemoryRunner(), {}, None
        for number in self.rounds:
            refs = _run(dataclasses.replace(plan, request=dataclasses.replace(request, rounds=number)), image, runner)
            assert refs.drawn is not None, "the loop has drawn"
            views, orbit = refs.drawn.views.get(), refs.drawn.orbit.get()
            assets[number] = Asset(
                refs.gaussians.get(), views, refs.targets.get(), orbit.cameras, runner.evaluations, runner.seconds
            )
        assert orbit is not None, "there is at least one number of rounds"
        costs = [runner.refs[stage] for stage in _VIEW_STAGES]
        return Made(assets, orbit, sum(cost.seconds for cost in costs), sum(cost.evaluations for cost in costs))

    def measure(self, toy: ToyObject, caption: str, seed: int) -> tuple[dict[str, Any], np.ndarray]:
        """Makes the views and assets of one object and measures them.

        Args:
            toy: The object, with its elevation.
            caption: Its caption, the prompt.
            seed: Of all that is random.

        Returns:
            The figures (docs/results.md explains them), and a picture [H, W, 3]: every second frame of the truth, of
            the views, and of the assets by rounds at the estimated elevation, each in a row.
        """
        count, size = self.pipeline.views.num_views, self.pipeline.views.image_size
        half = math.pi / count
        image = as_stored(np.asarray(render_turntable(toy, count, size, 0.0))[0])
        made = self.make(image, caption, seed)
        # Frames of a clockwise orbit: the first, the last, the last but one, and so on.
        order = np.arange(count) if made.orbit.facts["direction"] == "ccw" else -np.arange(count) % count
        true, between = (np.asarray(render_turntable(toy, count, size, offset))[order] for offset in (0.0, half))

        def compared(views: np.ndarray, wanted: np.ndarray, skip: int = 0) -> dict[str, float]:
            return compare(self.features.network, views, wanted, skip=skip, weights=self.judges.lpips)

        def rig(angle: float, offset: float) -> Cameras:
            cameras = orbit_cameras(angle, views=count, width=size, height=size, azimuth_offset=offset)
            return cameras[jnp.asarray(order)]

        estimated, known = made.orbit.elevation, float(toy.elevation)
        views = made.assets[self.rounds[0]].views
        rows, figures = [true, views], {}
        for number, asset in made.assets.items():
            renders = {
                name: [render_views(asset.gaussians, rig(angle, offset)) for offset in (0.0, half)]
                for name, angle in (("estimated", estimated), ("true", known))
            }
            at_views = renders["estimated"][0]
            rows.append(at_views)
            figures[str(number)] = {
                name: {"cameras": compared(at_cameras, true, skip=1), "between": compared(in_between, between)}
                for name, (at_cameras, in_between) in renders.items()
            } | {
                "rerendered": self.judges.similarities(at_views, caption, image),
                "targets": compared(asset.targets, true, skip=1),
                "residual": compared(at_views, asset.targets, skip=1),
                "gaussians": len(asset.gaussians),
                "seconds": asset.seconds,
                "network_evaluations": asset.network_evaluations,
            }
        record = {
            "elevation_deg": {
                "true": math.degrees(known),
                "estimated": math.degrees(estimated),
                "error": abs(math.degrees(estimated - known)),
            },
            "views": compared(views, true, skip=1)
            | self.judges.similarities(views, caption, image)
            | {"seconds": made.view_seconds, "network_evaluations": made.view_evaluations},
            "truth": self.judges.similarities(true, caption, image),
            "repeat": compared(np.broadcast_to(image[None], true.shape), true, skip=1),
            "assets": figures,
        }
        tiles = np.concatenate([row[::2] for row in rows])
        return record, contact_sheet(tiles, columns=len(true[::2]))


def measure_all(
    evaluation: Evaluation, toybox: Toybox, indices: Sequence[int], results: Results, seed: int, progress: Progress
) -> None:
    """Measures the objects that are not finished, and keeps their figures and pictures.

    Args:
        evaluation: Measures.
        toybox: Has the objects.
        indices: Which of them.
        results: Keeps the figures.
        seed: Object i is drawn with the seed `seed` + i.
        progress: Is told of every object.

    Raises:
        InputError: A seed beyond 2^32 - 1, or too little device memory.
    """
    for number, index in enumerate(indices, 1):
        if results.has(index):
            progress.line(f"object {index}: already finished")
            continue
        started = time.monotonic()
        caption, toy = toybox.item(index)
        with enough_memory(evaluation.pipeline.views.memory):
            record, picture = evaluation.measure(toy, caption, seed + index)
        (results.folder / f"{index:03d}.png").write_bytes(encode_png(picture))
        results.add(index, {"caption": caption, **record})
        seconds = time.monotonic() - started
        line = f"object {index} ({number} of {len(indices)}), {caption}: {one_line(record)}, {seconds:.0f} s"
        progress.line(line)


def _run(plan: Plan, image: np.ndarray, runner: MemoryRunner) -> AssetRefs:
    """Runs the loop in memory, with the first view as it is given, and returns what the loop returns."""
    runner.begin()
    loop = Loop(asset_stages(plan, files=False), runner)
    assert loop.stage is not None and loop.stage.name == "input", "the first view comes first"
    loop.advance(Result(image))
    return loop.finish()


@functools.partial(jax.jit, static_argnums=(1, 2))
def render_turntable(toy: ToyObject, views: int, size: int, azimuth_offset: float) -> jax.Array:
    """The true turntable of an object at its own elevation.

    Args:
        toy: The object.
        views: Frames of one counter-clockwise turn.
        size: Side of the pictures in pixels.
        azimuth_offset: Of all frames, radians.

    Returns:
        [views, size, size, 4] float32 in [0, 1], straight alpha.
    """
    cameras = orbit_cameras(toy.elevation, views=views, width=size, height=size, azimuth_offset=azimuth_offset)
    return render_object(toy, cameras)


def change_sampling(settings: ViewSettings, part: str, changes: Mapping[str, Any]) -> ViewSettings:
    """Settings of a view model with another sampling.

    Args:
        settings: Of a quality.
        part: The field to change: ``views`` or ``refine``.
        changes: New values of the fields of that field.

    Raises:
        InputError: The model samples otherwise and has no such fields.
    """
    if not changes:
        return settings
    whole: Any = settings
    sampling: Any = getattr(settings, part, None)
    known = getattr(sampling, "__dataclass_fields__", {})
    if missing := [name for name in changes if name not in known]:
        raise InputError(
            f"the sampling of {part} has no {' and no '.join(missing)} with this model; expected a bundle such as "
            "tiny, or none of the flags that change it"
        )
    return dataclasses.replace(whole, **{part: dataclasses.replace(sampling, **changes)})
