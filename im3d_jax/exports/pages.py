"""Pages of runs and files."""

from __future__ import annotations

import os
import pathlib

from im3d_jax.errors import input_errors
from im3d_jax.exports.names import name_of
from im3d_jax.exports.orbits import orbit_of
from im3d_jax.exports.source import Source
from im3d_jax.output.renders import render_views
from im3d_jax.viewer import About, PosedPictures, about_captures, about_file, about_request, build_page
from splat.io.files import on_device


STILL_SIDE = 256  # pixels of the picture for browsers without WebGL


def page_of(source: Source) -> bytes:
    """The page of a run or file; of a run as the run wrote it.

    Raises:
        InputError: The gaussians exceed what an SPZ file holds.
    """
    with input_errors(ValueError):
        if source.views is None:
            front = orbit_of(source).cameras(1, STILL_SIDE, STILL_SIDE)
            still = render_views(on_device(source.rows), front)[0]
            return build_page(source.rows, _about(source), up=source.up, still=still, metrics=source.metrics)
        views = source.views
        renders = render_views(on_device(source.rows), views.cameras)
        pictures = PosedPictures.of_views(views.cameras, views.images, renders, source.refined)
        return build_page(source.rows, _about(source), pictures=pictures, metrics=source.metrics)


def _about(source: Source) -> About:
    if source.request is not None:
        return about_request(source.request, str((source.run or {}).get("model")))
    views = source.views
    if source.run is None or views is None:
        path = pathlib.Path(os.path.abspath(source.path))
        return about_file(name_of(path), "" if path.is_dir() else path.suffix)
    seed = source.run.get("seed")
    return about_captures(len(views.images), seed if isinstance(seed, int) else None, generated=views.generated)
