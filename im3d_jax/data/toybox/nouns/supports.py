"""Low things that others stand on. Each spans about -0.6..0.6 in x and y; its top is at z = 0."""

from __future__ import annotations

from collections.abc import Callable

from im3d_jax.data.toybox.palette import GOLD
from im3d_jax.data.toybox.primitives import SHADE, TRIM, Primitive, box, ellipsoid, frustum


def table() -> list[Primitive]:
    legs = [box((x, y, -0.36), (0.06, 0.06, 0.28), SHADE) for x in (-0.5, 0.5) for y in (-0.5, 0.5)]
    return [box((0, 0, -0.05), (0.62, 0.62, 0.05), TRIM), *legs]


def stool() -> list[Primitive]:
    legs = [
        frustum((0.30 * x, 0.30 * y, -0.34), 0.06, 0.05, 0.26, SHADE) for x, y in ((1, 0), (-0.5, 0.87), (-0.5, -0.87))
    ]
    return [frustum((0, 0, -0.06), 0.50, 0.52, 0.06, TRIM), *legs]


def crate() -> list[Primitive]:
    return [
        box((0, 0, -0.30), (0.52, 0.52, 0.30), TRIM),
        box((0, 0, -0.06), (0.56, 0.56, 0.06), SHADE),
        box((0.53, 0, -0.34), (0.02, 0.16, 0.05), GOLD),
    ]


def cushion() -> list[Primitive]:
    return [ellipsoid((0, 0, -0.10), (0.70, 0.70, 0.16), TRIM), ellipsoid((0.68, 0.0, -0.10), 0.07, SHADE)]


SUPPORTS: dict[str, Callable[[], list[Primitive]]] = {
    "table": table,
    "stool": stool,
    "crate": crate,
    "cushion": cushion,
}
