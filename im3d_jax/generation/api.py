"""Making views and assets from Python: the functions that `im3d_jax` exports, and that `im3d` calls."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

from im3d_jax import environment
from im3d_jax.data.captures import Capture, check_reading, folder_of, load_capture
from im3d_jax.errors import InputError, unknown_field
from im3d_jax.generation.asset import Asset, Views
from im3d_jax.generation.batch import draw_ahead
from im3d_jax.generation.captures import CaptureSettings, check_capture, settings_json
from im3d_jax.generation.loop import AssetRefs, ViewRefs, asset_stages, reconstruction_stages, view_stages
from im3d_jax.generation.plan import PerceptualChoice, Plan, make_plan
from im3d_jax.generation.request import AssetRequest, check_quality, check_seed
from im3d_jax.generation.runners import FolderRunner, Loop, MemoryRunner, drive, enough_memory
from im3d_jax.output.run_folder import RunFolder
from im3d_jax.pipelines import Pipeline, Quality, fit_settings, load
from im3d_jax.progress import Event, Progress, ProgressCalls
from im3d_jax.weights.lpips_weights import LpipsWeights, open_lpips


Told = Callable[[Event], Any] | Progress | None
"""Who is told how work goes on: a function such as `print`, a `Progress`, or nobody."""

Runs = FolderRunner | MemoryRunner


@overload
def generate(
    model: Pipeline | str | os.PathLike,
    request: str | AssetRequest | None = None,
    *,
    progress: Told = None,
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
    lpips: str | os.PathLike | LpipsWeights | PerceptualChoice | None = None,
    **fields: Any,
) -> Asset: ...


@overload
def generate(
    model: Pipeline | str | os.PathLike,
    request: Sequence[AssetRequest],
    *,
    progress: Told = None,
    lpips: str | os.PathLike | LpipsWeights | PerceptualChoice | None = None,
) -> list[Asset]: ...


def generate(
    model: Pipeline | str | os.PathLike,
    request: str | AssetRequest | Sequence[AssetRequest] | None = None,
    *,
    progress: Told = None,
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
    lpips: str | os.PathLike | LpipsWeights | PerceptualChoice | None = None,
    **fields: Any,
) -> Asset | list[Asset]:
    """Makes 3D assets.

    Args:
        model: From `load`, or its name.
        request: A prompt, an `AssetRequest`, or a list of requests, whose views are drawn in batches. None: `fields`
            say it all, for instance ``image="shoe.png"``.
        progress: Called with an `Event` as work goes on; ``print`` will do.
        out: A run folder that keeps every result, so that the same call resumes an interrupted run; one request only.
        overwrite: Replace what another request left in `out`.
        lpips: LPIPS weights whose features the fit compares: what `weights.load_lpips` reads, or its value; or other
            features. The model's own without.
        **fields: Fields of the `AssetRequest`: image, seed, quality, rounds, elevation_deg, orbit_direction, start.

    Returns:
        The asset, or one for each request of a list.

    Raises:
        InputError: The request, the model or the folder cannot be used; one line.
    """
    pipeline, told, features = _opened(model), _listener(progress), PerceptualChoice.of(lpips)
    if isinstance(request, Sequence) and not isinstance(request, str):
        if out is not None or overwrite or fields:
            raise InputError("a list of requests takes neither `out` nor fields: set the fields of each AssetRequest")
        return _generate_all(_plans(request, pipeline, features), pipeline, told)
    plan = make_plan(_request(request, fields), pipeline, lpips=features)
    with _runner_of(plan, out, overwrite, told) as runner, enough_memory(pipeline.views.memory):
        return _asset(drive(asset_stages(plan, files=out is not None), runner), runner)


def views(
    model: Pipeline | str | os.PathLike,
    request: str | AssetRequest | None = None,
    *,
    progress: Told = None,
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
    **fields: Any,
) -> Views:
    """Draws the views of one object, the first half of `generate`, whose arguments these are.

    Raises:
        InputError: See `generate`.
    """
    pipeline, told = _opened(model), _listener(progress)
    if isinstance(request, Sequence) and not isinstance(request, str):
        raise InputError(f"a {type(request).__name__} of requests: `views` takes one request; call it for each of them")
    plan = make_plan(_request(request, fields), pipeline, what="views")
    with _runner_of(plan, out, overwrite, told) as runner, enough_memory(pipeline.views.memory):
        refs: ViewRefs = drive(view_stages(plan, files=out is not None), runner)
        orbit = refs.orbit.get()
        return Views(refs.views.get(), orbit.cameras, orbit.elevation, runner.evaluations)


def reconstruct(
    capture: str | os.PathLike | Capture,
    *,
    settings: CaptureSettings | None = None,
    model: Pipeline | str | os.PathLike = "tiny",
    quality: Quality = "standard",
    seed: int = 0,
    downscale: int = 1,
    hold_out: int = 0,
    lpips: str | os.PathLike | LpipsWeights | None = None,
    progress: Told = None,
    out: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> Asset:
    """Fits gaussians to pictures with known cameras, the second half of `generate`.

    Args:
        capture: A run folder of `views` or `generate`; a NeRF-synthetic, nerfstudio or COLMAP folder; or a `Capture`.
        settings: Of the fit of a capture; not for run folders.
        model: Whose features the fit of a run folder compares; not used for captures.
        quality: Of the fit of a run folder, as the model has it where it is of the family that drew the views, or as
            that family has it.
        seed: Of everything that is random.
        downscale: Mean over so many pixels squared before fitting, where `capture` is a folder.
        hold_out: Every so-many-th view of a capture's folder is held out; 0 for none.
        lpips: Weights that LPIPS is measured with: what `weights.load_lpips` reads, or its value.
        progress, out, overwrite: See `generate`.

    Raises:
        InputError: The capture, the model or the folder cannot be used; one line.
    """
    check_quality(quality)
    check_seed(seed)
    downscale, hold_out = check_reading(downscale, hold_out)
    if not isinstance(capture, Capture):
        if not isinstance(capture, str | os.PathLike):
            raise InputError(f"capture={str(capture)[:40]}: expected a folder, or what `load_capture` returns")
        if out is not None and os.path.realpath(out) == os.path.realpath(folder_of(capture)):
            raise InputError(f"out={out} is the folder to read; give another, or the results of both would mix")
        capture = load_capture(capture, downscale, hold_out=hold_out)
    weights = None if lpips is None else open_lpips(lpips)
    check_capture(capture, lpips=weights is not None, downscale=downscale, hold_out=hold_out)
    told = _listener(progress)
    for line in capture.remarks:
        told.line(line)
    decides: dict[str, Any] = {
        "what": "reconstruct",
        "data_sha256": capture.digest(),
        "downscale": downscale,
        "seed": int(seed),
    }
    network, side = None, None
    facts: dict[str, Any] = {} if capture.centre is None else {"origin": list(capture.origin)}
    if capture.family is not None:
        if settings is not None:
            raise InputError(f"{capture.source} is a run folder: expected a quality instead of capture settings")
        if hold_out:
            raise InputError(
                f"hold_out={hold_out}: {capture.source} is a run folder, whose views are all fitted; leave it out"
            )
        drawer = _opened(model).views
        if drawer.family == capture.family:
            chosen = drawer.view_settings(quality)
            config, side = chosen.fit, chosen.fit_side
        else:
            config, side = fit_settings(capture.family, quality)
        network, name = drawer.perceptual()
        facts |= {"model": drawer.name, "perceptual_features": name}
        decides |= {"quality": quality, "model": drawer.identity(elevation_known=True)}
    else:
        settings = settings or CaptureSettings()
        config = settings.config(capture)
        decides |= {"hold_out": hold_out, **settings_json(settings, capture)}
    stages = reconstruction_stages(
        capture,
        config,
        seed=seed,
        network=network,
        side=side,
        lpips=weights,
        enlarged=capture.family is None or quality != "draft",
        files=out is not None,
    )
    settings_of_run = {**decides, "fit": dataclasses.asdict(config)}
    with _runner_in(out, settings_of_run, overwrite, told, facts) as runner, enough_memory(None):
        return _asset(drive(stages, runner), runner, capture)


def _plans(requests: Sequence[Any], pipeline: Pipeline, lpips: PerceptualChoice | None) -> list[Plan]:
    """Of a list of requests; errors say which one is wrong."""
    plans = []
    for place, request in enumerate(requests):
        if not isinstance(request, AssetRequest):
            shown = str(request)[:40]
            raise InputError(f"requests[{place}]={shown}: expected an AssetRequest, as AssetRequest(prompt)")
        try:
            plans.append(make_plan(request, pipeline, lpips=lpips))
        except InputError as error:
            raise type(error)(f"requests[{place}]: {error}") from error
    return plans


def _generate_all(plans: Sequence[Plan], pipeline: Pipeline, told: Progress) -> list[Asset]:
    """The views of all plans in batches, then one fit after the other."""
    runners = [MemoryRunner(told) for _ in plans]
    for place, plan in enumerate(plans):
        for line in plan.remarks():
            told.line(f"requests[{place}]: {line}")
    loops = [Loop(asset_stages(plan, files=False), runner) for plan, runner in zip(plans, runners, strict=True)]
    assets: dict[int, Asset] = {}
    with enough_memory(pipeline.views.memory):
        for batch in draw_ahead(loops, pipeline):
            for loop, error in batch:
                if error is not None:
                    raise error
                place = loops.index(loop)
                assets[place] = _asset(loop.finish(), runners[place])
    return [assets[place] for place in range(len(plans))]


def _opened(model: Pipeline | str | os.PathLike) -> Pipeline:
    if isinstance(model, str | os.PathLike):
        return load(model)
    if not hasattr(model, "views"):
        raise InputError(f"model={str(model)[:40]}: expected what `load` returns, or the name of a model")
    return model


def _listener(progress: Told) -> Progress:
    if progress is not None and hasattr(progress, "stage"):
        return progress  # type: ignore[return-value]  # told apart from a function by the attribute
    if progress is not None and not callable(progress):
        raise InputError(f"progress={progress}: expected a function of one event, such as print")
    return ProgressCalls(progress)  # type: ignore[arg-type]  # a function or None


def _request(request: str | AssetRequest | None, fields: Mapping[str, Any]) -> AssetRequest:
    known = [field.name for field in dataclasses.fields(AssetRequest)]
    for name in fields:
        if name not in known:
            raise InputError(unknown_field(name, known))
    if isinstance(request, AssetRequest):
        return dataclasses.replace(request, **fields)
    # Arrays are pictures, which `AssetRequest` tells.
    if isinstance(request, Iterable) and not isinstance(request, str) and not hasattr(request, "__array__"):
        raise InputError(f"requests: expected a list, got a {type(request).__name__}; write list(...)")
    if request is None:
        return AssetRequest(**fields)
    if "prompt" in fields:
        raise InputError("the prompt is given twice: as the second argument and as prompt=; remove one of them")
    return AssetRequest(request, **fields)


def _runner_of(plan: Plan, out: str | os.PathLike | None, overwrite: bool, told: Progress) -> Runs:
    settings = {} if out is None else plan.settings()
    for line in plan.remarks(out):
        told.line(line)
    return _runner_in(out, settings, overwrite, told, plan.facts())


def _runner_in(
    out: str | os.PathLike | None,
    settings: Mapping[str, Any],
    overwrite: bool,
    told: Progress,
    facts: Mapping[str, Any],
) -> Runs:
    if out is None:
        return MemoryRunner(told)
    folder = RunFolder(out, settings, overwrite=overwrite)
    folder.start(environment.versions(), facts)
    return FolderRunner(folder, told)


def _asset(refs: AssetRefs, runner: Runs, capture: Capture | None = None) -> Asset:
    if refs.drawn is None:
        assert capture is not None
        views, cameras = capture.images, capture.cameras
    else:
        views, cameras = refs.drawn.views.get(), refs.drawn.orbit.get().cameras
    targets = refs.targets.get()
    origin = (0.0, 0.0, 0.0) if capture is None else capture.origin
    return Asset(refs.gaussians.get(), views, targets, cameras, runner.evaluations, runner.seconds, origin)
