"""Finished run folders of `im3d generate`, measured as they are: any model's, without a truth and without drawing."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.evaluation.comparisons import Judges, lpips_of_images, perceptual_of_images
from im3d_jax.data.captures import load_capture
from im3d_jax.digests import file_hash
from im3d_jax.errors import InputError
from im3d_jax.images.files import read_image
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.output.records import read_object
from im3d_jax.output.renders import render_views
from im3d_jax.output.run_folder import RUN_FILE, STAGES_FILE
from im3d_jax.progress import Progress
from splat.io import load_ply


PARTS = ("views", "rerendered", "residual")
# Columns of the table of runs: heading, and where its figure is.
_COLUMNS = (
    ("views to prompt", ("views", "clip_text")),
    ("views to picture", ("views", "clip_image")),
    ("asset to prompt", ("rerendered", "clip_text")),
    ("asset to picture", ("rerendered", "clip_image")),
)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run folder of `im3d generate` whose stages are finished and whose files are as they were written.

    Attributes:
        path: The folder.
        model: Name of what drew the views.
        prompt: Of the run, or None.
        views: Names of the views that the asset was fitted to last, the given one first.
    """

    path: pathlib.Path
    model: str
    prompt: str | None
    views: tuple[str, ...]


def open_finished_run(folder: str | os.PathLike) -> FinishedRun:
    """Checks a run folder and changes nothing in it.

    Raises:
        InputError: No such folder, no run of `im3d generate`, or one that is unfinished or was changed.
    """
    path = pathlib.Path(folder)
    if not (path / RUN_FILE).is_file():
        what = f"no {RUN_FILE} in it" if path.is_dir() else "no such folder"
        raise InputError(f"--runs={folder}: {what}; expected the run folder of a finished `im3d generate`")
    run, finished = _read_whole(path / RUN_FILE), {}
    if (path / STAGES_FILE).is_file():
        finished = _read_whole(path / STAGES_FILE)
    settings = run.get("settings")
    settings = settings if isinstance(settings, dict) else {}
    what, request = settings.get("what"), settings.get("request")
    if what != "asset" or not isinstance(request, dict):
        raise InputError(f"--runs={folder}: a run of {what!r}; expected one of 'asset', which `im3d generate` makes")
    rounds = request.get("rounds")
    drawn = f"refine{rounds}" if rounds else "views"
    again = "give its command again, which goes on where it stopped"
    if "metrics" not in finished:
        raise InputError(f"--runs={folder}: the run is unfinished; {again}")
    outputs: dict[str, Any] = {}
    for stage in ("input", "cameras", "asset", drawn):
        record = finished.get(stage)
        outputs[stage] = record.get("outputs") if isinstance(record, dict) else None
        if not isinstance(outputs[stage], dict):
            raise InputError(f"--runs={folder}: {STAGES_FILE} has no stage {stage!r}; {again} or with --overwrite")
        for name, digest in outputs[stage].items():
            if not (path / name).is_file() or digest not in (None, file_hash(path / name)):
                raise InputError(f"--runs={folder}: {name} is missing or was changed since; {again}")
    # Beside its views a refinement records what it kept of the former ones.
    views = tuple(sorted(name for name in outputs[drawn] if name.endswith(".png")))
    return FinishedRun(path, str(run.get("model")), request.get("prompt"), views)


def _read_whole(path: pathlib.Path) -> dict[str, Any]:
    value = read_object(path)
    if value is None:
        raise InputError(f"{path} is damaged; make the run anew with --overwrite")
    return value


def measure_run(run: FinishedRun, judges: Judges, features: Perceptual | None = None) -> dict[str, Any]:
    """Measures what a run left; the given view proves nothing and does not count.

    Args:
        run: Of any model.
        judges: CLIP, and LPIPS where its weights are given.
        features: Network of the perceptual distance, which is measured where LPIPS has no weights.

    Returns:
        `views` and `rerendered`: CLIP similarities of the views drawn last and of the asset at their cameras, to the
        prompt (where there is one) and to the given picture. `residual`: `lpips` or `perceptual` between the two.

    Raises:
        InputError: Files that cannot be used.
    """
    capture = load_capture(run.path, file_paths=list(run.views))
    image = read_image(run.path / "input.png")
    renders = render_views(load_ply(run.path / "asset.ply"), capture.cameras)
    made, wanted = renders[1:], capture.images[1:]
    if judges.lpips is not None:
        residual = {"lpips": lpips_of_images(judges.lpips, made, wanted)}
    elif features is not None:
        residual = {"perceptual": perceptual_of_images(features, made, wanted)}
    else:
        residual = {}
    return {
        "views": judges.similarities(capture.images, run.prompt, image),
        "rerendered": judges.similarities(renders, run.prompt, image),
        "residual": {name: float(np.mean(np.asarray(values), dtype=np.float64)) for name, values in residual.items()},
    }


def measure_all(
    runs: Sequence[FinishedRun], judges: Judges, features: Perceptual | None, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Measures runs.

    Args:
        runs: From `open_finished_run`.
        judges, features: See `measure_run`.
        progress: Is told of every run.

    Returns:
        For each run its folder (`run`), `model`, `prompt` and figures; and the figures' means, see `mean_of_runs`.
    """
    records = []
    for number, run in enumerate(runs, 1):
        figures = measure_run(run, judges, features)
        records.append({"run": str(run.path), "model": run.model, "prompt": run.prompt, **figures})
        progress.line(f"run {number} of {len(runs)}: {run.path}")
    return records, mean_of_runs(records)


def mean_of_runs(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Means of the figures of `measure_run`, each over the runs that have it: one without prompt has none to it."""
    mean: dict[str, dict[str, float]] = {}
    for part in PARTS:
        names = {name: None for record in records for name in record[part]}
        found = {name: [record[part][name] for record in records if name in record[part]] for name in names}
        mean[part] = {name: sum(figures) / len(figures) for name, figures in found.items()}
    return mean


def run_table(records: Sequence[Mapping[str, Any]], mean: Mapping[str, Any], distance: str) -> list[str]:
    """Lines of a Markdown table of runs and their mean; a dash where there is no figure.

    Args:
        records: Figures of the runs, and `run`: what to call each.
        mean: From `mean_of_runs`.
        distance: Which distance the residual has: ``lpips`` or ``perceptual``.
    """
    columns = [*_COLUMNS, (f"asset to views, {distance}", ("residual", distance))]
    lines = ["| run | " + " | ".join(heading for heading, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in [*((record["run"], record) for record in records), (f"mean of {len(records)}", mean)]:
        cells = [figures[part].get(figure) for _, (part, figure) in columns]
        lines.append(f"| {name} | {' | '.join('–' if cell is None else f'{cell:.4f}' for cell in cells)} |")
    return lines
