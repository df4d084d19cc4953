"""The stages of a run, from top to bottom. Each reads the files of those before it and nothing else.

input     the picture, prepared or drawn          input.png
views     the orbit                               views/00.png ...
cameras   its elevation, given or estimated       cameras.json
preview                                           views.mp4, sheet.png
fit0      gaussians, up to the first refinement   state/fit0.npz
refine1   their renders, drawn anew               views_round1/00.png ...
fit1 ...  the fit goes on with these as targets
asset                                             asset.ply
pictures                                          turntable.mp4, asset_sheet.png
metrics                                           metrics.json
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.cli import common, fits, orbits, prompts
from im3d_jax.cli.errors import user_errors
from im3d_jax.cli.metrics import compare
from im3d_jax.data.captures import Capture, load_capture
from im3d_jax.data.prepare import ImageError, prepare_image, read_image
from im3d_jax.foreign import features as foreign_features
from im3d_jax.foreign.recipes import Recipe
from im3d_jax.models import lpips as lpips_distance
from im3d_jax.output.cameras import encode_cameras
from im3d_jax.output.images import encode_png, on_white, read_images
from im3d_jax.output.progress import ProgressPrinter, Report
from im3d_jax.output.renders import render_views, turntable_cameras
from im3d_jax.output.run_folder import RunFolder, RunFolderError, StageFiles, to_json
from im3d_jax.output.sheets import contact_sheet
from im3d_jax.output.videos import encode_mp4
from im3d_jax.reconstruction import fitting
from im3d_jax.weights import WeightsError
from splat import orbit_cameras
from splat.io import NonFinite, load_ply, save_ply


# Where in the fit the targets are drawn anew, in twelfths: every 500 of 1,200 steps in IM-3D, section 3.4.
REFRESH_TWELFTHS = (5, 10)
# Of the seed; the model's own streams are the numbers below.
FIT_STREAM = 3
TURNTABLE_FRAMES = 48
TURNTABLE_SIDE = 256  # pixels; at least the views' own, at most twice that


@dataclasses.dataclass(frozen=True)
class Run:
    """A run under way.

    Attributes:
        folder: where its files are.
        model: a `Pipeline` or `OrbitPipeline`, or None where no network is needed.
        progress: what the user sees.
        image_model: what draws the first picture where that is not the model.
        features: network of the fit's perceptual term, or None.
    """

    folder: RunFolder
    model: Any
    progress: ProgressPrinter
    image_model: Any = None
    features: Any = None

    @property
    def recipe(self) -> Any:
        """How assets are made with a foreign model, or None: with the project's own rig and presets."""
        return None if self.model is None else self.model.recipe

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments that every drawing of the model takes."""
        return {"seed": self.folder.settings["seed"], "quality": self.folder.settings["quality"]}

    def stage(
        self,
        name: str,
        title: str,
        work: Callable[[StageFiles, Report], int | None],
        inputs: Iterable[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Does `work` under a progress bar unless it is finished."""
        inputs = list(inputs)
        if self.folder.finished(name, inputs, settings):
            self.progress.line(f"{title}: finished before")
            return
        with self.progress.stage(title) as report:
            self.folder.stage(name, lambda files: work(files, report), inputs=inputs, settings=settings)


def make_views(
    folder: RunFolder, model, image_path: str | None, progress: ProgressPrinter | None = None, *, image_model=None
) -> None:
    """The first half: input.png to sheet.png.

    Args:
        folder: the run's.
        model: a `Pipeline` or `OrbitPipeline`.
        image_path: the picture to start from, or None to draw it.
        progress: what the user sees.
        image_model: what draws it, by default the model.

    Raises:
        UserError: the picture cannot be used, or the folder cannot be written.
    """
    picture = _prepared(model, image_path)
    run = _begin(folder, model, progress, image_model)
    with user_errors(ImageError, RunFolderError, WeightsError), orbits.enough_memory(model):
        _draw(run, picture)
    run.progress.line(f"views in {folder / 'views'}, all on one sheet: {folder / 'sheet.png'}")


def make_asset(
    folder: RunFolder,
    model,
    image_path: str | None,
    progress: ProgressPrinter | None = None,
    *,
    image_model=None,
    perceptual: tuple[Any, str] | None = None,
) -> None:
    """The whole way: input.png to metrics.json.

    Args:
        folder: the run's.
        model: a `Pipeline` or `OrbitPipeline`.
        image_path: the picture to start from, or None to draw it.
        progress: what the user sees.
        image_model: what draws it, by default the model.
        perceptual: network of the fit's perceptual term and its name, by default the model's.

    Raises:
        UserError: the picture cannot be used, or the folder cannot be written.
    """
    picture = _prepared(model, image_path)
    run = _begin(folder, model, progress, image_model, perceptual)
    with user_errors(ImageError, RunFolderError, WeightsError), orbits.enough_memory(model):
        names = _draw(run, picture)
        config = orbits.fit_config(folder.settings["quality"], run.recipe)
        rounds = folder.settings["rounds"]
        stops = [config.steps * part // 12 for part in REFRESH_TWELFTHS[:rounds]] + [config.steps]
        for part, stop in enumerate(stops):
            _fit(run, part, stop, config, functools.partial(_views, run, names), ["cameras.json", *names])
            if part < rounds:
                names = _refine(run, part + 1, config)
        _finish(run, len(stops) - 1, config, functools.partial(_views, run, names), ["cameras.json", *names])


def reconstruct(
    folder: RunFolder,
    capture: Capture,
    model,
    progress: ProgressPrinter | None = None,
    lpips: tuple[lpips_distance.Params, str] | None = None,
    recipe: Recipe | None = None,
) -> None:
    """The second half: views that are there, of a run folder (with `model`) or a capture, to metrics.json.

    Args:
        folder: the run's.
        capture: the views.
        model: a `Pipeline`, or None for captures.
        progress: what the user sees.
        lpips: parameters and their file's hash, to measure with.
        recipe: of the fit, where a foreign model drew the views.

    Raises:
        UserError: the folder cannot be written.
    """
    perceptual, fitted = None, capture
    if recipe is not None:
        fitted = orbits.reduced(capture, recipe.fit_side)
        perceptual = foreign_features.bundled_features(), foreign_features.NAME
    run = _begin(folder, model, progress, perceptual=perceptual)
    settings = folder.settings
    config = orbits.fit_config(settings["quality"], recipe) if capture.generated else fits.config_of(settings)
    with user_errors(RunFolderError):
        _fit(run, 0, config.steps, config, lambda: fitted, [])
        views = functools.partial(fits.with_refined_poses, folder, capture, config)
        _finish(run, 0, config, views, [], lpips)


def _begin(
    folder: RunFolder,
    model,
    progress: ProgressPrinter | None,
    image_model=None,
    perceptual: tuple[Any, str] | None = None,
) -> Run:
    progress = progress or ProgressPrinter()
    read = [used.remark for used in (model, image_model) if used is not None and used.remark]
    for line in [*read, *prompts.remarks(folder.settings.get("prompt"), model, image_model)]:
        progress.line(line)
    facts = {}
    if model is not None:
        perceptual = perceptual or (model.features, model.perceptual_name)
        facts = {"model": model.name, "perceptual_features": perceptual[1]}
    if image_model is not None:
        facts |= {"image_model": image_model.name}
    if model is not None and model.memory is not None:
        facts |= {"memory": model.memory.name}
    with user_errors(RunFolderError):
        folder.start(common.versions(), facts)
    return Run(folder, model, progress, image_model, None if perceptual is None else perceptual[0])


def _prepared(model, image_path: str | None) -> np.ndarray | None:
    """The picture as the model wants it; before the run begins, which may remove the results of an older one."""
    if image_path is None:
        return None
    with user_errors(ImageError):
        return prepare_image(read_image(image_path), model.image_size, model.target_fraction)


def _draw(run: Run, picture: np.ndarray | None) -> list[str]:
    """Stages `input` to `preview`; returns the names of the views."""
    folder, model, prompt = run.folder, run.model, run.folder.settings["prompt"]

    def draw_image(files: StageFiles, report: Report) -> int:
        image, evaluations = run.image_model.draw_image(prompt, progress=report, **run.sampling)
        files.write("drawn.png", encode_png(image))
        return evaluations

    def take_input(files: StageFiles, report: Report) -> int:
        if picture is not None:
            image, evaluations = picture, 0
        elif run.image_model is None:
            image, evaluations = model.draw_image(prompt, progress=report, **run.sampling)
        else:
            try:
                image, evaluations = prepare_image(drawn(), model.image_size, model.target_fraction), 0
            except ImageError as error:
                raise ImageError(f"{folder / 'drawn.png'}: {error}; or try another --seed") from error
        files.write("input.png", encode_png(image))
        return evaluations

    def drawn() -> np.ndarray:
        return read_image(folder / "drawn.png")

    def draw_views(files: StageFiles, report: Report) -> int:
        image = read_image(folder / "input.png")
        views, evaluations = model.draw_views(image, prompt, progress=report, **run.sampling)
        return _write_views(run, files, names, views, image, evaluations)

    def find_cameras(files: StageFiles, report: Report) -> None:
        views = read_images([folder / name for name in names])
        if run.recipe is not None:
            orbits.find_cameras(files, model, views, names, folder.settings, report, run.progress.line)
            return
        given = folder.settings["elevation_deg"]
        elevation = model.estimate_elevation(views) if given is None else math.radians(given)
        cameras = orbit_cameras(elevation, views=len(views), height=views.shape[1], width=views.shape[2])
        files.write("cameras.json", encode_cameras(cameras, names, elevation))

    def preview(files: StageFiles, report: Report) -> None:
        views = on_white(read_images([folder / name for name in names]))
        files.write("views.mp4", encode_mp4(views))
        files.write("sheet.png", encode_png(contact_sheet(orbits.for_sheet(run.recipe, views))))

    names = [f"views/{index:02d}.png" for index in range(model.num_views)]
    before = [] if run.image_model is None else ["drawn.png"]
    if before:
        run.stage("drawn", "picture", draw_image)
    title = "picture" if picture is None and not before else "prepare the picture"
    run.stage("input", title, take_input, before)
    run.stage("views", "views", draw_views, ["input.png"])
    run.stage("cameras", "elevation", find_cameras, names)
    if run.recipe is not None:
        folder.note({"orbit": json.loads((folder / orbits.ORBIT_FILE).read_bytes())})
    run.stage("preview", "video and sheet", preview, names)
    return names


def _write_views(run: Run, files: StageFiles, names: list[str], views, image, evaluations: int) -> int:
    for line in run.model.said:
        run.progress.line(line)
    # The conditioning view is known; drawing it again could only lose.
    with ThreadPoolExecutor() as pool:
        for name, content in zip(names, pool.map(encode_png, [image, *views[1:]]), strict=True):
            files.write(name, content)
    return evaluations


def _views(run: Run, names: list[str]) -> Capture:
    """The orbit of the run's cameras.json with these pictures."""
    return load_capture(run.folder.path, file_paths=names)


def _fit(run: Run, part: int, stop: int, config, views: Callable[[], Capture], inputs: list[str]) -> None:
    """One segment of the fit, from state/fit{part-1}.npz or the start, up to step `stop`."""
    before = [f"state/fit{part - 1}.npz"] if part else []

    def work(files: StageFiles, report: Report) -> None:
        capture = views()
        if run.recipe is not None:
            run.model.release()
            capture = orbits.reduced(capture, run.recipe.fit_side)

        def begin() -> fitting.FitState:
            if part:
                return fitting.load_state(run.folder / before[0], config)
            key = jax.random.fold_in(jax.random.key(run.folder.settings["seed"]), FIT_STREAM)
            targets = fitting.Targets(jnp.asarray(capture.images))
            start = {"points": capture.points, "colours": capture.colours}
            return fitting.init_state(key, config, capture.cameras, targets=targets, **start)

        state = fits.fit_resumably(
            run.folder,
            part,
            begin,
            capture,
            config,
            stop=stop,
            features=run.features,
            inputs=[*before, *inputs],
            report=report,
            line=run.progress.line,
            previews=not capture.generated,
        )
        files.save(f"state/fit{part}.npz", lambda path: fitting.save_state(path, state))

    run.stage(f"fit{part}", f"fit to step {stop}", work, [*before, *inputs])
    fits.forget(run.folder, part)


def _refine(run: Run, number: int, config) -> list[str]:
    """Renders the fit so far and lets the model draw it anew; returns the names of the new views."""
    state_file = f"state/fit{number - 1}.npz"
    names = [f"views_round{number}/{index:02d}.png" for index in range(run.model.num_views)]
    first = [f"views/{index:02d}.png" for index in range(run.model.num_views)]

    def work(files: StageFiles, report: Report) -> int:
        gaussians = fitting.final_gaussians(fitting.load_state(run.folder / state_file, config))
        renders = render_views(gaussians, _views(run, first).cameras)
        image = read_image(run.folder / "input.png")
        views, evaluations = run.model.refine(
            renders, image, run.folder.settings["prompt"], round=number, progress=report, **run.sampling
        )
        return _write_views(run, files, names, views, image, evaluations)

    inputs = ["input.png", "cameras.json", *first, state_file]
    run.stage(f"refine{number}", f"refinement {number}", work, inputs)
    return names


def _finish(
    run: Run,
    part: int,
    config,
    views: Callable[[], Capture],
    inputs: list[str],
    lpips: tuple[lpips_distance.Params, str] | None = None,
) -> None:
    """Stages `asset` to `metrics`, from state/fit{part}.npz and the views fitted last."""
    folder, state_file = run.folder, f"state/fit{part}.npz"
    params, lpips_file = lpips or (None, None)

    def write_asset(files: StageFiles, report: Report) -> None:
        gaussians = fitting.final_gaussians(fitting.load_state(folder / state_file, config))
        with user_errors(NonFinite):
            files.save("asset.ply", lambda path: save_ply(path, gaussians))

    def draw_pictures(files: StageFiles, report: Report) -> None:
        gaussians, cameras = load_ply(folder / "asset.ply"), views().cameras
        longest = max(cameras.width, cameras.height)
        # At the views' own size a draft needs no further compiled program.
        draft = folder.settings.get("quality") == "draft"
        scale = 1.0 if draft else min(2.0, max(1.0, TURNTABLE_SIDE / longest))
        orbit = turntable_cameras(cameras, TURNTABLE_FRAMES, scale)
        files.write("turntable.mp4", encode_mp4(on_white(render_views(gaussians, orbit))))
        sheet = orbits.for_sheet(run.recipe, render_views(gaussians, turntable_cameras(cameras, 16)))
        files.write("asset_sheet.png", encode_png(contact_sheet(sheet)))

    def measure(files: StageFiles, report: Report) -> None:
        gaussians, capture = load_ply(folder / "asset.ply"), views()
        # Of an orbit, the conditioning view was given and proves nothing.
        compared = capture.cameras[1:] if capture.generated else capture.cameras
        images = capture.images[1:] if capture.generated else capture.images
        figures: dict[str, Any] = {"views": compare(render_views(gaussians, compared), images, params)}
        if capture.test is not None:
            renders = render_views(gaussians, capture.test.cameras)
            figures["test"] = compare(renders, capture.test.images, params)
        figures |= {"seconds": round(folder.seconds, 1), "gaussians": len(gaussians)}
        files.write("metrics.json", to_json(figures), volatile=True)

    run.stage("asset", "asset", write_asset, [state_file])
    run.stage("pictures", "turntable", draw_pictures, ["asset.ply", *inputs])
    measured_with = {"lpips_sha256": lpips_file} if lpips_file else None
    run.stage("metrics", "metrics", measure, ["asset.ply", *inputs], measured_with)
    run.progress.line(f"asset: {folder / 'asset.ply'}, turning: {folder / 'turntable.mp4'}")
