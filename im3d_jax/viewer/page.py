"""Builds the page: gaussians as SPZ, pictures as WebP and the program, all in one HTML file."""

from __future__ import annotations

import base64
import dataclasses
import html
import importlib.resources
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from im3d_jax.images.files import to_bytes
from im3d_jax.images.resize import shrink
from im3d_jax.output.renders import FOV_DEG, Turn, find_turn, fov_deg_of, turn_around
from im3d_jax.version import __version__
from im3d_jax.viewer.about import About, measures_of
from im3d_jax.viewer.frame import PageFrame, page_frame
from splat import Cameras
from splat.io.files import Rows, check_writable
from splat.io.frames import transform
from splat.io.spz import encode_spz


MOST_VIEWS = 16  # of a capture; evenly spaced ones are shown
VIEW_SIDE = 256  # most pixels of each picture
_QUALITY = 84  # of WebP
_FARTHEST = 1e4  # in median distances from the middle
_PLY_ROW, _PLY_HEADER, _GLB_ROW, _GLB_HEADER = 248, 1500, 60, 2400


@dataclasses.dataclass(frozen=True, eq=False)
class PosedPictures:
    """The views of an asset, and renders of the same cameras.

    Attributes:
        cameras: V cameras.
        given: [V, H, W, 4] straight alpha: what was drawn first, or captured.
        asset: [V, H, W, 4] straight alpha: renders.
        turn: The orbit like theirs.
        refined: [V, H, W, 4] the views after the last refinement; None without one.
        total: How many views there are, where these are some of them.
    """

    cameras: Cameras
    given: np.ndarray
    asset: np.ndarray
    turn: Turn
    refined: np.ndarray | None = None
    total: int | None = None

    @classmethod
    def of_views(
        cls, cameras: Cameras, given: np.ndarray, asset: np.ndarray, fitted: np.ndarray | None = None
    ) -> PosedPictures:
        """Views with the orbit of their cameras.

        Args:
            cameras: V cameras, at least two.
            given: [V, H, W, 4] what was drawn first, or captured.
            asset: [V, H, W, 4] renders.
            fitted: [V, H, W, 4] the views that were fitted last; they count as refined if they differ from the first.
        """
        refined = None if fitted is None or np.array_equal(fitted, given) else fitted
        return cls(cameras, given, asset, find_turn(cameras), refined)

    def some(self) -> PosedPictures:
        """At most `MOST_VIEWS` of them."""
        count = len(self.given)
        if count <= MOST_VIEWS:
            return self
        chosen = np.arange(MOST_VIEWS) * count // MOST_VIEWS
        refined = None if self.refined is None else self.refined[chosen]
        return PosedPictures(self.cameras[chosen], self.given[chosen], self.asset[chosen], self.turn, refined, count)

    def around(self, frame: PageFrame) -> PosedPictures:
        """The same by azimuth, from the first one on."""
        order = np.argsort(azimuths(frame, frame.camera_to_page(self.cameras), self.turn.centre), kind="stable")
        refined = None if self.refined is None else self.refined[order]
        return PosedPictures(self.cameras[order], self.given[order], self.asset[order], self.turn, refined, self.total)


def build_page(
    gaussians: Rows,
    about: About,
    *,
    up: str = "z",
    pictures: PosedPictures | None = None,
    still: np.ndarray | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> bytes:
    """Builds a page.

    Args:
        gaussians: N gaussians, finite. Harmonics above degree 3 are left out, and so are gaussians that lie 10,000
            times as far away as most.
        about: Its words.
        up: Direction that is up in the world of the gaussians, "z", "y" or "-y"; `pictures` know it themselves.
        pictures: The views; a page without shows the gaussians alone.
        still: [H, W, 4] what browsers without WebGL show; the first render by default.
        metrics: Sections of metrics.json.

    Returns:
        The bytes of an HTML file, equal for equal arguments.

    Raises:
        ValueError: There are no gaussians, some are not finite, or they exceed the range of SPZ.
    """
    frame = page_frame(up if pictures is None else pictures.turn.up)
    rows = _without_strays(dataclasses.replace(gaussians, sh=gaussians.sh[:, :16]))
    turned = transform(rows, frame.turn)
    spz = encode_spz(turned)
    pictures = None if pictures is None else pictures.some().around(frame)
    if still is None and pictures is not None:
        still = pictures.asset[0]
    data: dict[str, Any] = {
        "file": about.file_name,
        "world": frame.world_json(rows.sh_degree),
        "cameras": [],
        "views": {"given": [], "asset": [], "later": None, "shown": 0, "givenName": about.given},
        **_views_json(frame, about, pictures),
        "home": _home(frame, turned, pictures),
        "spz": base64.b64encode(spz).decode(),
    }
    degree = rows.sh_degree
    sizes = {
        "ply_size": _PLY_HEADER + _PLY_ROW * len(rows),
        "spz_size": len(spz),
        "glb_size": _GLB_HEADER + (_GLB_ROW + 12 * ((degree + 1) ** 2 - 1)) * len(rows),
    }
    facts = [*about.facts, ("Gaussians", f"{len(rows):,}")]
    count = 0 if pictures is None else len(pictures.given)
    given = "what the model drew" if about.given == "Drawn" else "the pictures of the capture"
    return _fill(
        {
            "version": __version__,
            "css": _asset("page.css"),
            "script": _asset("viewer.min.js").replace("</script", "<\\/script"),
            # No text of the data may end its element.
            "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
            "measures": _measures_html(metrics or {}),
            "facts": "\n".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts),
            "still": "data:," if still is None else _webp(still),
            "title": _text(about.title),
            "kicker": _text(about.kicker),
            "views_title": f"{count} views"
            if pictures is None or not pictures.total
            else f"{count} of {pictures.total} views",
            "views_note": f"Above, {given}; below, the asset from the same camera. Choose a view to see it in 3D.",
            "given_name": _text(about.given),
            "slider_note": (
                "The model drew the views again from renders of the first fit, and the fit went on with these. Drag to "
                "compare the first drawing of a view with the refined one."
            ),
            "files_note": (
                "PLY and GLB are made here from the embedded SPZ, which rounds to bytes. The file "
                "asset.ply of the run has every digit."
                if pictures is not None
                else "PLY and GLB are made here from the embedded SPZ, which rounds to bytes."
            ),
            "footer": f"im3d_jax {__version__} · drawn with three.js r187 (MIT) · this page works without a network",
            **{name: _size_text(size) for name, size in sizes.items()},
        }
    )


def _fill(values: Mapping[str, str]) -> bytes:
    """The template with its {{names}} replaced, in one pass: no value is searched for names."""
    template = _asset("page.html")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template).encode()


def _asset(name: str) -> str:
    return importlib.resources.files("im3d_jax.viewer").joinpath(name).read_text(encoding="utf-8")


def _text(value: str) -> str:
    return html.escape(value, quote=True)


def _size_text(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{max(size / 1e3, 1):.0f} kB"


def _measures_html(metrics: Mapping[str, Any]) -> str:
    rows = measures_of(metrics)
    if not rows:
        return ""

    def line(label: str, cells: Sequence[str], kind: str) -> str:
        scope = ' scope="col"' if kind == "th" else ""
        first = f'<th scope="{"col" if kind == "th" else "row"}">{_text(label)}</th>'
        return f"<tr>{first}{''.join(f'<{kind}{scope}>{_text(cell)}</{kind}>' for cell in cells)}</tr>"

    body = "\n".join(line(label, cells, "td") for label, cells in rows[1:])
    return (
        f'<section class="measures" aria-labelledby="measures-title"><h2 id="measures-title">Measures</h2>\n'
        f"<table><thead>{line(*rows[0], 'th')}</thead><tbody>\n{body}\n</tbody></table></section>"
    )


def _views_json(frame: PageFrame, about: About, pictures: PosedPictures | None) -> dict[str, Any]:
    """Cameras and pictures."""
    if pictures is None:
        return {}
    matrices = frame.camera_to_page(pictures.cameras)
    intrinsics = np.asarray(pictures.cameras.intrinsics, np.float64)
    angles = azimuths(frame, matrices, pictures.turn.centre)
    cameras = [
        {
            "label": f"{azimuth:.1f}".removesuffix(".0") + "°",
            "matrix": np.round(matrix, 7).ravel().tolist(),
            "position": np.round(matrix[:3, 3], 6).tolist(),
            "fx": lens[0, 0],
            "fy": lens[1, 1],
            "cx": lens[0, 2],
            "cy": lens[1, 2],
            "width": pictures.cameras.width,
            "height": pictures.cameras.height,
        }
        for matrix, lens, azimuth in zip(matrices, intrinsics, angles, strict=True)
    ]
    shown = 0
    refined = pictures.refined
    if refined is not None:
        # The view that refinement changed most says most.
        shown = int(np.abs(refined - pictures.given).mean((1, 2, 3)).argmax())
    views = {
        "given": [_webp(view) for view in pictures.given],
        "asset": [_webp(view) for view in pictures.asset],
        "later": None if refined is None else [_webp(view) for view in refined],
        "shown": shown,
        "givenName": about.given,
    }
    return {"cameras": cameras, "views": views}


def azimuths(frame: PageFrame, matrices: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Degrees from the first camera, counter-clockwise seen from above, 0 to 360."""
    offsets = matrices[:, :3, 3] - frame.turn @ centre
    angles = np.degrees(np.arctan2(offsets[:, 0], offsets[:, 2]))
    return np.round(angles - angles[0], 3) % 360.0


def _home(frame: PageFrame, turned: Rows, pictures: PosedPictures | None) -> dict[str, Any]:
    """Where the page looks from at first."""
    if pictures is not None:
        position = frame.camera_to_page(pictures.cameras[:1])[0, :3, 3]
        target, fov = frame.turn @ pictures.turn.centre, fov_deg_of(pictures.cameras)
    else:
        _, up, ahead = np.eye(3)
        turn = turn_around(turned, up, ahead)
        target, position, fov = turn.centre, turn.places(np.zeros(1), turn.elevation)[0], FOV_DEG
    return {
        "target": np.round(target, 6).tolist(),
        "position": np.round(position, 6).tolist(),
        "distance": round(float(np.linalg.norm(position - target)), 6),
        "fovDegrees": round(fov, 4),
    }


def _without_strays(rows: Rows) -> Rows:
    """Few gaussians that lie very far away would coarsen the positions of all others."""
    rows = check_writable(rows, "HTML", 3)
    distances = np.linalg.norm(rows.means - np.median(rows.means, axis=0)[None], axis=1)
    near = distances <= _FARTHEST * max(float(np.median(distances)), 1e-6)
    return rows if near.all() else rows.take(near)


def _webp(view: np.ndarray) -> str:
    """A picture [H, W, 4] of at most `VIEW_SIDE` pixels a side as the address of its own data."""
    small = shrink(view, -(-max(view.shape[:2]) // VIEW_SIDE))
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(small)).save(buffer, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
