"""Work of the stages that make what people look at: sheets, videos and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax.generation.stages import Result, Workplace
from im3d_jax.images.alpha import composite
from im3d_jax.images.files import encode_png
from im3d_jax.images.metrics import foreground_psnr, foreground_ssim, psnr, ssim
from im3d_jax.images.resize import block_mean
from im3d_jax.images.sharpness import sharpness
from im3d_jax.models import lpips as lpips_distance
from im3d_jax.output.records import to_json
from im3d_jax.output.renders import render_views, turntable_cameras
from im3d_jax.output.run_files import PAGE
from im3d_jax.output.sheets import contact_sheet
from im3d_jax.output.videos import encode_mp4
from im3d_jax.viewer import About, PosedPictures, build_page
from splat import Cameras, Gaussians
from splat.gaussians import usable
from splat.io.files import on_host
from splat.io.spz import LARGEST_POSITION


SHEET_SIDE = 256  # most pixels of each view on a sheet: larger sheets take seconds to compress
VOLATILE = frozenset({"metrics.json"})


@dataclasses.dataclass(frozen=True)
class Turntable:
    """The video of a finished asset.

    Attributes:
        frames: Of one turn.
        side: Of its pictures in pixels; at least the views' own, at most twice that.
    """

    frames: int = 48
    side: int = 256


TURNTABLE = Turntable()


@dataclasses.dataclass(frozen=True, eq=False)
class PosedViews:
    """Views that an asset is compared with.

    Attributes:
        cameras: V cameras.
        images: [V, H, W, 4] straight alpha.
        valid: [V, H, W] bool of the pixels that are compared; None for all.
    """

    cameras: Cameras
    images: np.ndarray
    valid: np.ndarray | None = None


def sheet_of(views: np.ndarray) -> bytes:
    """Views [V, H, W, 3] as a PNG contact sheet, each reduced by whole blocks to at most `SHEET_SIDE` pixels."""
    block = -(-max(views.shape[1:3]) // SHEET_SIDE)
    return encode_png(contact_sheet(np.stack([block_mean(view, block) for view in views])))


def preview_views(place: Workplace, views: np.ndarray) -> Result[dict[str, bytes]]:
    """views.mp4 and sheet.png."""
    shown = composite(views)
    return Result({"views.mp4": encode_mp4(shown), "sheet.png": sheet_of(shown)})


def draw_turntable(turntable: Turntable, enlarged: bool) -> Callable[..., Result[dict[str, bytes]]]:
    """Work that draws turntable.mp4 and asset_sheet.png.

    Args:
        turntable: The video.
        enlarged: Whether the video may be larger than the views; at their size no further program is compiled.
    """

    def work(place: Workplace, gaussians: Gaussians, cameras: Cameras) -> Result[dict[str, bytes]]:
        longest = max(cameras.width, cameras.height)
        scale = min(2.0, max(1.0, turntable.side / longest)) if enlarged else 1.0
        orbit = turntable_cameras(cameras, turntable.frames, scale)
        video = encode_mp4(composite(render_views(gaussians, orbit)))
        sheet = sheet_of(composite(render_views(gaussians, turntable_cameras(cameras, 16))))
        return Result({"turntable.mp4": video, "asset_sheet.png": sheet})

    return work


def measure(about: About, lpips: lpips_distance.Params | None = None) -> Callable[..., Result[dict[str, bytes]]]:
    """Work that measures an asset: metrics.json and viewer.html.

    Args:
        about: The words of the page.
        lpips: Parameters; LPIPS is measured with them.
    """

    def work(place: Workplace, gaussians: Gaussians, parts: Mapping[str, PosedViews]) -> Result[dict[str, bytes]]:
        """Args: the asset, and what it is compared with by the names in metrics.json; the page shows the first."""
        figures: dict[str, dict[str, float]] = {}
        shown: PosedPictures | None = None
        for name, part in parts.items():
            renders = render_views(gaussians, part.cameras)
            figures[name] = compare(renders, part.images, lpips, part.valid)
            shown = shown or PosedPictures.of_views(part.cameras, part.images, renders)
        page = page_of(gaussians, about, shown, figures)
        return Result({"metrics.json": _metrics(place, gaussians, figures), **page})

    return work


def page_of(
    gaussians: Gaussians, about: About, pictures: PosedPictures | None, figures: Mapping[str, Any]
) -> dict[str, bytes]:
    """viewer.html; no file where no gaussian can be drawn, or where one is further away than SPZ reaches.

    Args:
        gaussians: The asset.
        about: The words of the page.
        pictures: The views.
        figures: Sections of metrics.json.
    """
    rows = on_host(gaussians, np.asarray(usable(gaussians)))
    if not len(rows) or np.linalg.norm(rows.means, axis=-1).max() >= LARGEST_POSITION:
        return {}
    return {PAGE: build_page(rows, about, pictures=pictures, metrics=figures)}


def measure_orbit(
    place: Workplace, gaussians: Gaussians, about: About, cameras: Cameras, first: np.ndarray, targets: np.ndarray
) -> Result[dict[str, bytes]]:
    """Work that measures an asset of generated views: metrics.json, comparison.png and viewer.html.

    Args:
        place: See `Workplace`.
        gaussians: The asset.
        about: The words of the page.
        cameras: Of the views.
        first: [T, H, W, 4] the first sample: what the model drew.
        targets: [T, H, W, 4] the views that were fitted last; an asset can be close to them because they are blurred.
    """
    renders = render_views(gaussians, cameras)
    figures = {
        # The conditioning view was given and proves nothing.
        name: compare(renders[1:], images[1:]) | _sharpness(renders[1:], images[1:])
        for name, images in (("against_first_views", first), ("against_targets", targets))
    }
    # Rows of four in turn; the last two are filled up with white.
    pairs = np.stack([np.pad(composite(part), ((0, -len(part) % 4), *[(0, 0)] * 3), constant_values=1.0)
                      for part in (first, renders)])  # fmt: skip
    sheet = sheet_of(pairs.reshape(2, -1, 4, *pairs.shape[2:]).swapaxes(0, 1).reshape(-1, *pairs.shape[2:]))
    page = page_of(gaussians, about, PosedPictures.of_views(cameras, first, renders, targets), figures)
    return Result({"metrics.json": _metrics(place, gaussians, figures), "comparison.png": sheet, **page})


@jax.jit
def _likeness(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """PSNR and SSIM [V] of images [V, H, W, 3]."""
    return psnr(a, b), ssim(a, b)


def _metrics(place: Workplace, gaussians: Gaussians, figures: dict[str, dict[str, float]]) -> bytes:
    return to_json({**figures, "seconds": round(place.seconds, 1), "gaussians": len(gaussians)})


def _sharpness(renders: np.ndarray, images: np.ndarray) -> dict[str, float]:
    """Mean sharpness of renders and of views inside the views' masks."""
    both = {"sharpness": renders, "sharpness_of_views": images}
    return {name: round(float(sharpness(part, images[..., 3]).mean()), 5) for name, part in both.items()}


def compare(
    renders: np.ndarray,
    images: np.ndarray,
    lpips: lpips_distance.Params | None = None,
    valid: np.ndarray | None = None,
) -> dict[str, float]:
    """Mean PSNR (dB), SSIM and, with parameters, LPIPS of straight-alpha images on white.

    Args:
        renders: [V, H, W, 4].
        images: [V, H, W, 4].
        lpips: Parameters.
        valid: [V, H, W] bool of the pixels that are compared, None for all; the others are equal in both pictures.
            PSNR is that of these pixels, SSIM that of the windows with at least one of them inside their bounding box.
    """
    if valid is not None:
        renders = np.where(valid[..., None], renders, images)
    rendered, true = jnp.asarray(composite(renders)), jnp.asarray(composite(images))
    if valid is None:
        signal, similarity = _likeness(rendered, true)
    else:
        signal = foreground_psnr(rendered, true, jnp.asarray(valid, jnp.float32))
        similarity = foreground_ssim(rendered, true, valid)
    figures = {
        "psnr": round(float(jnp.mean(signal)), 4),
        "ssim": round(float(jnp.mean(similarity)), 5),
    }
    if lpips is not None:
        # One view at a time: the features of all of a capture need not fit into memory.
        pairs = zip(rendered, true, strict=True)
        distances = [float(lpips_distance.lpips(lpips, a[None], b[None])[0]) for a, b in pairs]
        figures["lpips"] = round(float(np.mean(distances)), 5)
    return figures
