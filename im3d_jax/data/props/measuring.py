"""Measures the props of a pack: their main colour as it is seen, whether they stand, whether their top is flat."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from im3d_jax.data.meshes.model import Mesh
from im3d_jax.data.meshes.pack import MeshPack
from im3d_jax.data.props.catalogue import COLUMNS, Prop
from im3d_jax.data.props.names import Name, names_by_caption, reviewed_name
from im3d_jax.data.props.renderer import ALBEDO, Item, PropRenderer, oklab
from im3d_jax.data.toybox.palette import COLOURS
from im3d_jax.errors import InputError


_VIEWS = (np.radians([20.0, 110.0, 200.0, 290.0]), np.radians([25.0, 5.0, 35.0, 15.0]))
_NEAR = 0.058  # in Oklab: the middle of the shader's edge
_LIGHTNESS = np.array([0.35, 1.0, 1.0])


def measure_pack(pack: MeshPack) -> Iterator[Prop]:
    """The props of a pack, in its order, without those that the table of names leaves out.

    Raises:
        InputError: An object whose caption is not in the table of names, or there is no OpenGL.
    """
    rows = []
    for entry in pack.entries:
        row = reviewed_name(entry["source"], entry["caption"], names_by_caption())
        if row is None:
            raise InputError(f"{entry['source']}: its caption {entry['caption']!r} is not in the table of names")
        rows.append(row)
    renderer = PropRenderer(96, 4)
    try:
        for number, (entry, row) in enumerate(zip(pack.entries, rows, strict=True)):
            if not row["name"]:
                continue
            mesh = pack.mesh(number)
            main, share = main_colour(renderer.render([Item(number, mesh, np.eye(4))], *_VIEWS, ALBEDO))
            yield Prop(
                id=entry["id"],
                name=Name(row["name"]),
                usual=row["usual"],
                main=main,
                share=share,
                colour="" if row["usual"] or share < 0.6 else colour_word(main),
                stands=stands(mesh),
                flat=has_flat_top(mesh),
                **proportions(mesh),
            )
    finally:
        renderer.close()


def write_catalogue(props: Iterator[Prop]) -> str:
    """The text of the catalogue."""
    rows = sorted(prop.row() for prop in props)
    return "".join("\t".join(row) + "\n" for row in (COLUMNS, *rows))


def main_colour(frames: np.ndarray) -> tuple[tuple[float, float, float], float]:
    """The colour that most of an object has.

    Args:
        frames: [F, H, W, 4] uint8, its albedo.

    Returns:
        (mean sRGB of the pixels about it, their share of all pixels).
    """
    seen = frames[frames[..., 3] > 250][:, :3].astype(np.float64) / 255.0
    lab = oklab(seen) * _LIGHTNESS
    sample = lab[:: max(1, len(lab) // 300)]
    counts = (((sample[:, None] - sample[None]) ** 2).sum(-1) < (0.6 * _NEAR) ** 2).sum(1)
    centre = sample[int(counts.argmax())]
    for _ in range(8):
        near = ((lab - centre) ** 2).sum(-1) < _NEAR**2
        centre = lab[near].mean(0)
    near = ((lab - centre) ** 2).sum(-1) < _NEAR**2
    red, green, blue = (np.round(255.0 * seen[near].mean(0)) / 255.0).tolist()  # as the catalogue keeps it
    return (red, green, blue), round(float(near.mean()), 2)


def colour_word(srgb: tuple[float, float, float]) -> str:
    """The name of a colour where it is clearly one of Toybox's; empty where it lies between two."""
    lab = oklab(np.array(srgb))
    chroma, hue = float(np.hypot(lab[1], lab[2])), float(np.degrees(np.arctan2(lab[2], lab[1])) % 360.0)
    lightness = float(lab[0])
    if chroma < 0.018:
        for word, low, high in (("black", 0.0, 0.33), ("gray", 0.48, 0.78), ("white", 0.88, 1.1)):
            if low <= lightness <= high:
                return word
        return ""
    if chroma < 0.05:
        return ""
    for word in COLOURS:
        if word in ("black", "gray", "white"):
            continue
        low, high, darkest, lightest = _HUES[word]
        if low <= hue <= high and darkest <= lightness <= lightest and chroma >= (0.05 if word == "brown" else 0.10):
            return word
    return ""


# Degrees of hue and lightness in Oklab within which a colour has its name for sure.
_HUES = {
    "red": (15.0, 33.0, 0.40, 0.68),
    "orange": (50.0, 70.0, 0.64, 0.80),
    "yellow": (84.0, 108.0, 0.76, 1.0),
    "green": (125.0, 165.0, 0.35, 0.85),
    "cyan": (185.0, 215.0, 0.55, 0.90),
    "blue": (235.0, 275.0, 0.30, 0.70),
    "purple": (290.0, 325.0, 0.25, 0.60),
    "pink": (340.0, 365.0, 0.65, 0.90),
    "brown": (35.0, 75.0, 0.25, 0.52),
}


def stands(mesh: Mesh) -> bool:
    """Whether what an object stands on lies about its middle, and is wide enough for its height."""
    points = np.concatenate([part.positions for part in mesh.parts])
    middle = _centre(mesh)
    low, high = points.min(0), points.max(0)
    height, width = float(high[2] - low[2]), float(np.max((high - low)[:2]))
    foot = points[points[:, 2] <= low[2] + 0.04 * max(height, 0.3 * width)][:, :2]
    first, last = foot.min(0), foot.max(0)
    slack = 0.02 * width
    return bool(
        ((first - slack <= middle[:2]) & (middle[:2] <= last + slack)).all() and (last - first > 0.12 * height).all()
    )


def proportions(mesh: Mesh) -> dict[str, bool]:
    """`Prop.deep` and `Prop.low` of a mesh whose front faces +x."""
    depth, width, height = np.ptp(np.concatenate([part.positions for part in mesh.parts]), axis=0).tolist()
    return {"deep": width < 0.4 * depth and height < 0.8 * depth, "low": height < 0.15 * max(depth, width)}


def _centre(mesh: Mesh) -> np.ndarray:
    """Mean of the surface."""
    total, weights = np.zeros(3), 0.0
    for part in mesh.parts:
        a, b, c = (part.positions[part.triangles[:, i]].astype(np.float64) for i in range(3))
        areas = np.linalg.norm(np.cross(b - a, c - a), axis=-1)
        total += (areas[:, None] * (a + b + c) / 3.0).sum(0)
        weights += float(areas.sum())
    return total / max(weights, 1e-12)


def has_flat_top(mesh: Mesh) -> bool:
    """Whether all of the middle of an object, seen from above, lies at its greatest height."""
    points = np.concatenate([part.positions for part in mesh.parts])
    low, high = points.min(0), points.max(0)
    near = high[2] - 0.012 * float(np.max(high - low))
    corners = []
    for part in mesh.parts:
        triangles = part.positions[part.triangles]
        corners.append(triangles[(triangles[..., 2] >= near).all(1)][..., :2])
    tops = np.concatenate(corners).astype(np.float64)
    if not len(tops):
        return False
    fractions = np.linspace(0.14, 0.86, 9)
    places = low[:2] + (high - low)[:2] * np.stack(np.meshgrid(fractions, fractions), -1).reshape(-1, 2)
    a, b, c = tops[:, 0], tops[:, 1], tops[:, 2]

    def side(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        edge, to = q - p, places[:, None] - p
        return edge[:, 0] * to[..., 1] - edge[:, 1] * to[..., 0]

    sides = np.stack([side(a, b), side(b, c), side(c, a)])
    inside: np.ndarray = (sides.min(0) >= -1e-9) | (sides.max(0) <= 1e-9)
    covered = np.any(inside, axis=1)
    middle = (np.abs(places - 0.5 * (low + high)[:2]) <= 0.37 * (high - low)[:2] * 0.75).all(1)
    return bool(covered[middle].all() and covered.mean() > 0.7)
