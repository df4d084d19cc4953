"""Buildings and vehicles. A builder takes a random generator, returns primitives, front towards +x, z up."""

from __future__ import annotations

import numpy as np

from im3d_jax.data.toybox.palette import (
    BRICK,
    CREAM,
    DARK_METAL,
    DARK_WOOD,
    GLASS,
    GOLD,
    INK,
    LAMP,
    METAL,
    PAPER,
    RUBBER,
    WOOD,
)
from im3d_jax.data.toybox.primitives import (
    SHADE,
    TRIM,
    Primitive,
    arc,
    box,
    ellipsoid,
    frustum,
    rod,
)


Random = np.random.Generator


def _wheels(xs: tuple[float, ...], y: float, z: float, radius: float, width: float = 0.1) -> list[Primitive]:
    wheels = [
        rod((x, s * (y - width), z), (x, s * (y + width), z), radius, radius, RUBBER) for x in xs for s in (-1, 1)
    ]
    return wheels


def house(rng: Random) -> list[Primitive]:
    x, y, h, roof = (
        rng.uniform(0.48, 0.56),
        rng.uniform(0.50, 0.62),
        rng.uniform(0.32, 0.40),
        rng.uniform(0.22, 0.30),
    )
    return [
        box((0, 0, -h), (x, y, h)),
        box((0, 0, roof), (x + 0.12, y + 0.12, roof), BRICK, taper=(1.0, 0.0)),
        box((-0.4 * x, 0.5 * y, 1.5 * roof), (0.09, 0.09, 0.26), DARK_METAL),
        box((x, -0.30 * y, -1.35 * h), (0.03, 0.13, 0.65 * h), DARK_WOOD),
        ellipsoid((x + 0.04, -0.30 * y + 0.08, -1.35 * h), 0.035, GOLD),
        box((x, 0.45 * y, -0.85 * h), (0.03, 0.15, 0.14), GLASS),
        box((0, y, -0.85 * h), (0.17, 0.03, 0.14), GLASS),
        box((0.1, -y, -0.85 * h), (0.12, 0.03, 0.14), GLASS),
        box((0, 0, -2 * h - 0.02), (x + 0.10, y + 0.10, 0.03), METAL),
    ]


def castle(rng: Random) -> list[Primitive]:
    w, h, tower = rng.uniform(0.46, 0.52), rng.uniform(0.26, 0.34), rng.uniform(0.44, 0.54)
    towers = [frustum((x, y, tower - h - 0.1), 0.17, 0.15, tower) for x in (-w, w) for y in (-w, w)]
    roofs = [frustum((x, y, 2 * tower - h + 0.06), 0.21, 0.0, 0.18, SHADE) for x in (-w, w) for y in (-w, w)]
    keep = [box((-0.08, 0, 0.16), (0.24, 0.24, 0.40), TRIM), box((-0.08, 0, 0.60), (0.28, 0.28, 0.05), SHADE)]
    return [
        box((0, 0, -0.10), (w, w, h)),
        *towers,
        *roofs,
        *keep,
        box((w + 0.01, 0, -0.22), (0.03, 0.16, 0.20), DARK_WOOD),
        rod((-0.08, 0, 0.6), (-0.08, 0, 1.08), 0.03, 0.03, DARK_METAL),
        box((-0.08, 0.16, 0.99), (0.02, 0.15, 0.09), (0.78, 0.16, 0.14)),
    ]


def lighthouse(rng: Random) -> list[Primitive]:
    r, h = rng.uniform(0.32, 0.38), rng.uniform(0.56, 0.64)
    return [
        ellipsoid((0, 0, -0.72), (0.56, 0.56, 0.20), METAL, low=0.0),
        frustum((0, 0, -0.10), r, 0.62 * r, h),
        frustum((0, 0, h - 0.08), 0.80 * r, 0.80 * r, 0.04, DARK_METAL),
        frustum((0, 0, h + 0.06), 0.46 * r, 0.46 * r, 0.12, LAMP),
        frustum((0, 0, h + 0.28), 0.64 * r, 0.0, 0.12, SHADE),
        box((0.90 * r, 0, -0.52), (0.06, 0.09, 0.15), DARK_WOOD),
        box((0.74 * r, 0, 0.10), (0.06, 0.06, 0.08), GLASS),
        box((-0.46, 0.16, -0.50), (0.20, 0.18, 0.14), PAPER),
        box((-0.46, 0.16, -0.28), (0.24, 0.22, 0.10), BRICK, taper=(0.0, 1.0)),
    ]


def windmill(rng: Random) -> list[Primitive]:
    r, h, start = rng.uniform(0.34, 0.40), rng.uniform(0.46, 0.54), rng.uniform(0, 90)
    hub = h + 0.02
    blades = []
    for quarter in range(4):
        angle = np.radians(start + 90 * quarter)
        c, s = float(np.cos(angle)), float(np.sin(angle))
        turn = (float(np.degrees(angle)), 0.0, 0.0)
        blades.append(box((0.40, 0.40 * c, hub + 0.40 * s), (0.02, 0.34, 0.10), PAPER, turn=turn))
        blades.append(rod((0.42, 0, hub), (0.42, 0.74 * c, hub + 0.74 * s), 0.025, 0.025, DARK_WOOD))
    return [
        frustum((0, 0, -0.16), r, 0.66 * r, h),
        ellipsoid((0, 0, h - 0.16), (0.70 * r, 0.70 * r, 0.30), SHADE, low=0.0),
        rod((0, 0, hub), (0.46, 0, hub), 0.07, 0.07, DARK_WOOD),
        *blades,
        box((0.90 * r, 0, -0.46), (0.07, 0.10, 0.17), DARK_WOOD),
        box((0.70 * r, 0, -0.02), (0.07, 0.06, 0.07), GLASS),
    ]


def tent(rng: Random) -> list[Primitive]:
    x, y, h = rng.uniform(0.60, 0.75), rng.uniform(0.56, 0.66), rng.uniform(0.40, 0.48)
    return [
        box((0, 0, 0), (x, y, h), taper=(0.0, 1.0)),
        box((x, 0, -0.24 * h), (0.015, 0.48 * y, 0.76 * h), INK, taper=(0.0, 1.0)),
        rod((x + 0.02, 0, -h), (x + 0.02, 0, h + 0.12), 0.035, 0.035, WOOD),
        rod((-x - 0.02, 0, -h), (-x - 0.02, 0, h + 0.12), 0.035, 0.035, WOOD),
        box((0, 0, -h - 0.02), (x + 0.06, y + 0.06, 0.03), SHADE),
        box((x + 0.02, 0.13, h + 0.05), (0.015, 0.12, 0.07), (0.78, 0.16, 0.14)),
    ]


def well(rng: Random) -> list[Primitive]:
    r, roof = rng.uniform(0.44, 0.50), rng.uniform(0.18, 0.26)
    return [
        frustum((0, 0, -0.45), r, r, 0.26, closed=(True, False)),
        frustum((0, 0, -0.45), 0.78 * r, 0.78 * r, 0.25, DARK_METAL, closed=(True, False)),
        frustum((0, 0, -0.42), 0.76 * r, 0.76 * r, 0.02, (0.16, 0.32, 0.52)),
        box((0, r, 0.06), (0.05, 0.05, 0.5), DARK_WOOD),
        box((0, -r, 0.06), (0.05, 0.05, 0.5), DARK_WOOD),
        box((0, 0, 0.56 + roof), (0.50, r + 0.16, roof), TRIM, taper=(1.0, 0.0)),
        rod((0, -r, 0.30), (0, r + 0.14, 0.30), 0.05, 0.05, WOOD),
        box((0.08, r + 0.15, 0.24), (0.10, 0.03, 0.03), DARK_METAL, turn=(0, 40, 0)),
        rod((0, 0, 0.30), (0, 0, 0.02), 0.02, 0.02, CREAM),
        frustum((0, 0, -0.10), 0.10, 0.14, 0.12, METAL, closed=(True, False)),
        box((r, 0, -0.45), (0.05, 0.14, 0.10), PAPER),
    ]


def mailbox(rng: Random) -> list[Primitive]:
    w, length = rng.uniform(0.26, 0.30), rng.uniform(0.46, 0.54)
    return [
        box((0, 0, -0.45), (0.07, 0.07, 0.50), WOOD),
        box((0, 0, 0.12), (length, w, 0.14)),
        rod((-length, 0, 0.26), (length, 0, 0.26), w),
        box((length + 0.01, 0, 0.16), (0.02, 0.8 * w, 0.17), SHADE),
        ellipsoid((length + 0.05, 0, 0.30), 0.05, GOLD),
        box((0.10, w + 0.03, 0.46), (0.03, 0.02, 0.22), (0.78, 0.14, 0.12)),
        box((0.20, w + 0.03, 0.60), (0.12, 0.02, 0.08), (0.78, 0.14, 0.12)),
    ]


def rocket(rng: Random) -> list[Primitive]:
    r, h = rng.uniform(0.24, 0.29), rng.uniform(0.42, 0.50)
    fins = []
    for number in range(3):
        a = 2.0944 * number + 3.1416
        c, s = float(np.cos(a)), float(np.sin(a))
        fins.append(
            box(
                (1.25 * r * c, 1.25 * r * s, -h + 0.02),
                (0.24, 0.03, 0.22),
                SHADE,
                turn=(0, 0, 120.0 * number + 180),
                taper=(0.7, 0.0),
            )
        )
    return [
        frustum((0, 0, -0.05), r, r, h),
        ellipsoid((0, 0, h - 0.05), (r, r, 0.42), TRIM, low=0.0),
        frustum((0, 0, -h - 0.13), 0.9 * r, 0.6 * r, 0.09, DARK_METAL),
        frustum((0, 0, -h - 0.30), 0.0, 0.5 * r, 0.12, (0.90, 0.50, 0.10)),
        *fins,
        rod((0.6 * r, 0, 0.22), (r + 0.03, 0, 0.22), 0.15, 0.15, METAL),
        rod((0.6 * r, 0, 0.22), (r + 0.05, 0, 0.22), 0.11, 0.11, GLASS),
        box((r, 0, -0.30), (0.02, 0.09, 0.16), DARK_METAL),
    ]


def car(rng: Random) -> list[Primitive]:
    length, w, cabin = rng.uniform(0.80, 0.88), rng.uniform(0.36, 0.42), rng.uniform(0.18, 0.24)
    back = rng.uniform(-0.22, -0.08)
    return [
        box((0, 0, -0.08), (length, w, 0.16)),
        box((back, 0, 0.08 + cabin), (0.44, 0.92 * w, cabin), TRIM, taper=(0.40, 0.16)),
        box((back + 0.32, 0, 0.07 + cabin), (0.16, 0.76 * w, 0.80 * cabin), GLASS, taper=(0.9, 0.1)),
        box((back, 0, 0.08 + cabin), (0.30, 0.95 * w, 0.66 * cabin), GLASS, taper=(0.3, 0.12)),
        *_wheels((0.54, -0.54), w, -0.22, 0.20, 0.07),
        ellipsoid((length, 0.66 * w, -0.04), (0.05, 0.09, 0.07), LAMP),
        ellipsoid((length, -0.66 * w, -0.04), (0.05, 0.09, 0.07), LAMP),
        box((-length, 0.66 * w, -0.02), (0.03, 0.09, 0.05), (0.70, 0.10, 0.08)),
        box((-length, -0.66 * w, -0.02), (0.03, 0.09, 0.05), (0.70, 0.10, 0.08)),
        box((length, 0, -0.18), (0.06, 0.94 * w, 0.05), METAL),
        box((-length, 0, -0.18), (0.06, 0.94 * w, 0.05), METAL),
    ]


def truck(rng: Random) -> list[Primitive]:
    w, load = rng.uniform(0.34, 0.38), rng.uniform(0.32, 0.42)
    return [
        box((0, 0, -0.34), (0.90, 0.8 * w, 0.06), DARK_METAL),
        box((-0.30, 0, -0.26 + load), (0.60, w, load)),
        box((0.62, 0, -0.02), (0.22, 0.94 * w, 0.30), SHADE, taper=(0.12, 0.0)),
        box((0.80, 0, 0.10), (0.05, 0.76 * w, 0.13), GLASS, turn=(0, -6, 0)),
        box((0.62, 0, 0.10), (0.11, 0.97 * w, 0.11), GLASS),
        *_wheels((0.60, -0.22, -0.62), w, -0.42, 0.17, 0.06),
        box((0.86, 0, -0.22), (0.05, 0.9 * w, 0.06), METAL),
        ellipsoid((0.86, 0.7 * w, -0.12), (0.04, 0.06, 0.06), LAMP),
        ellipsoid((0.86, -0.7 * w, -0.12), (0.04, 0.06, 0.06), LAMP),
    ]


def bus(rng: Random) -> list[Primitive]:
    w, h, length = rng.uniform(0.30, 0.34), rng.uniform(0.32, 0.38), rng.uniform(0.86, 0.94)
    panes = [box((x, 0, 0.12), (0.15, w + 0.02, 0.36 * h), GLASS) for x in (-0.56, -0.18, 0.20)]
    return [
        box((0, 0, 0), (length, w, h)),
        *panes,
        box((length, 0, 0.12), (0.03, 0.88 * w, 0.42 * h), GLASS),
        box((0.60, w, -0.02), (0.12, 0.025, 0.78 * h), DARK_METAL),
        box((-length, 0, 0.15), (0.02, 0.7 * w, 0.26 * h), GLASS),
        *_wheels((0.56, -0.56), w, -h, 0.17, 0.05),
        ellipsoid((length, 0.7 * w, -0.5 * h), (0.04, 0.06, 0.06), LAMP),
        ellipsoid((length, -0.7 * w, -0.5 * h), (0.04, 0.06, 0.06), LAMP),
        box((length, 0, -0.85 * h), (0.05, w, 0.05), METAL),
    ]


def train(rng: Random) -> list[Primitive]:
    r, cabin = rng.uniform(0.25, 0.29), rng.uniform(0.40, 0.48)
    return [
        box((0, 0, -0.30), (0.88, 0.30, 0.07), DARK_METAL),
        rod((-0.30, 0, 0.0), (0.70, 0, 0.0), r),
        rod((0.70, 0, 0.0), (0.76, 0, 0.0), 0.86 * r, 0.80 * r, DARK_METAL),
        frustum((0.52, 0, r + 0.14), 0.08, 0.14, 0.17, INK),
        ellipsoid((0.14, 0, r), (0.12, 0.12, 0.13), GOLD),
        box((-0.56, 0, cabin - 0.26), (0.28, 0.31, cabin), TRIM),
        box((-0.56, 0, 2 * cabin - 0.24), (0.36, 0.38, 0.05), SHADE),
        box((-0.56, 0, 0.24), (0.15, 0.33, 0.14), GLASS),
        box((-0.30, 0, 0.42), (0.03, 0.22, 0.09), GLASS),
        *_wheels((0.56, 0.14), 0.30, -0.40, 0.18, 0.05),
        *_wheels((-0.48,), 0.30, -0.36, 0.24, 0.05),
        box((0.92, 0, -0.42), (0.14, 0.30, 0.12), (0.66, 0.16, 0.12), taper=(0.9, 0.3)),
        ellipsoid((0.78, 0, 0.10), 0.09, LAMP),
    ]


def plane(rng: Random) -> list[Primitive]:
    r, span, spin = rng.uniform(0.17, 0.21), rng.uniform(0.78, 0.90), rng.uniform(0, 90)
    return [
        ellipsoid((0, 0, 0), (0.86, r, r)),
        box((0.14, 0, -0.02), (0.20, span, 0.03)),
        box((-0.68, 0, 0.05), (0.12, 0.34, 0.025), SHADE),
        box((-0.70, 0, 0.24), (0.16, 0.03, 0.20), SHADE, taper=(0.5, 0.0)),
        ellipsoid((0.32, 0, 0.13), (0.24, 0.12, 0.14), GLASS),
        ellipsoid((0.86, 0, 0), (0.10, 0.09, 0.09), DARK_METAL),
        box((0.90, 0, 0), (0.02, 0.34, 0.05), DARK_WOOD, turn=(float(spin), 0, 0)),
        rod((0.24, 0.26, -0.26), (0.24, 0.32, -0.26), 0.09, 0.09, RUBBER),
        rod((0.24, -0.32, -0.26), (0.24, -0.26, -0.26), 0.09, 0.09, RUBBER),
        rod((0.20, 0.24, 0), (0.24, 0.28, -0.26), 0.03, 0.03, METAL),
        rod((0.20, -0.24, 0), (0.24, -0.28, -0.26), 0.03, 0.03, METAL),
    ]


def boat(rng: Random) -> list[Primitive]:
    length, w, mast = rng.uniform(0.70, 0.80), rng.uniform(0.26, 0.32), rng.uniform(0.50, 0.58)
    return [
        ellipsoid((0, 0, -0.20), (length, w, 0.36), low=-1.0, high=0.0, closed=True),
        box((-0.02, 0, -0.17), (0.80 * length, 0.72 * w, 0.03), WOOD),
        rod((0.05, 0, -0.2), (0.05, 0, 2 * mast - 0.16), 0.035, 0.035, DARK_WOOD),
        box((-0.28, 0, mast - 0.08), (0.31, 0.02, 0.84 * mast), PAPER, taper=(0.9, 0.0)),
        box((0.27, 0, 0.72 * mast - 0.08), (0.18, 0.02, 0.62 * mast), TRIM, taper=(0.95, 0.0)),
        box((-0.42, 0, -0.06), (0.16, 0.15, 0.12), SHADE),
        box((0.05, 0.10, 2 * mast - 0.10), (0.015, 0.11, 0.06), (0.78, 0.16, 0.14)),
    ]


def ship(rng: Random) -> list[Primitive]:
    w, funnel = rng.uniform(0.22, 0.27), rng.uniform(0.16, 0.24)
    return [
        box((-0.10, 0, -0.24), (0.72, w, 0.18), turn=(180, 0, 0), taper=(0.14, 0.2)),
        box((0.68, 0, -0.24), (0.24, w, 0.18), turn=(180, 0, 0), taper=(0.6, 0.6)),
        box((-0.14, 0, 0.04), (0.50, 0.8 * w, 0.11), PAPER),
        box((-0.04, 0, 0.22), (0.30, 0.66 * w, 0.09), PAPER),
        box((0.20, 0, 0.26), (0.10, 0.62 * w, 0.06), GLASS),
        frustum((-0.30, 0, 0.22 + funnel), 0.12, 0.11, funnel, TRIM),
        frustum((-0.30, 0, 0.22 + 2 * funnel), 0.125, 0.125, 0.04, INK),
        frustum((0.02, 0, 0.22 + funnel), 0.12, 0.11, funnel, TRIM),
        frustum((0.02, 0, 0.22 + 2 * funnel), 0.125, 0.125, 0.04, INK),
        rod((0.60, 0, -0.1), (0.60, 0, 0.40), 0.025, 0.025, DARK_WOOD),
        box((-0.78, 0.0, 0.10), (0.02, 0.02, 0.16), DARK_METAL),
        box((-0.86, 0.0, 0.20), (0.10, 0.015, 0.07), (0.78, 0.16, 0.14)),
    ]


def cannon(rng: Random) -> list[Primitive]:
    tilt, r = np.radians(rng.uniform(8, 24)), rng.uniform(0.17, 0.21)
    c, s = float(np.cos(tilt)), float(np.sin(tilt))
    at = lambda d: (d * c, 0.0, 0.12 + d * s)  # noqa: E731
    return [
        rod(at(-0.50), at(0.82), 1.15 * r, 0.85 * r, closed=(True, False)),
        rod(at(0.74), at(0.86), 1.05 * r, 1.05 * r, SHADE, closed=(False, False)),
        rod(at(0.70), at(0.72), 0.72 * r, 0.72 * r, INK),
        ellipsoid(at(-0.52), 1.1 * r, TRIM),
        ellipsoid(at(-0.76), 0.09, GOLD),
        rod((0, 0.28, -0.08), (0, 0.38, -0.08), 0.36, 0.36, DARK_WOOD),
        rod((0, -0.38, -0.08), (0, -0.28, -0.08), 0.36, 0.36, DARK_WOOD),
        rod((0, -0.42, -0.08), (0, 0.42, -0.08), 0.08, 0.08, METAL),
        box((-0.44, 0, -0.24), (0.46, 0.12, 0.07), WOOD, turn=(0, -18, 0)),
    ]


def barrow(rng: Random) -> list[Primitive]:
    w, h = rng.uniform(0.32, 0.40), rng.uniform(0.18, 0.24)
    handles = [rod((0.62, s * 0.12, -0.30), (-0.90, s * 0.34, 0.04), 0.035, 0.035, WOOD) for s in (-1, 1)]
    legs = [rod((-0.36, s * 0.28, -0.08), (-0.40, s * 0.30, -0.46), 0.035, 0.035, METAL) for s in (-1, 1)]
    return [
        box((0.02, 0, 0.10), (0.50, w, h), turn=(180, 0, 0), taper=(0.35, 0.25)),
        box((0.02, 0, 0.12 + h), (0.44, 0.9 * w, 0.04), (0.36, 0.24, 0.15)),
        ellipsoid((0.0, 0, 0.12 + h), (0.38, 0.8 * w, 0.18), (0.36, 0.24, 0.15)),
        rod((0.66, -0.06, -0.26), (0.66, 0.06, -0.26), 0.22, 0.22, RUBBER),
        rod((0.66, -0.08, -0.26), (0.66, 0.08, -0.26), 0.10, 0.10, METAL),
        *handles,
        *legs,
    ]


def basket(rng: Random) -> list[Primitive]:
    r, h = rng.uniform(0.54, 0.62), rng.uniform(0.24, 0.32)
    fruit = (
        (0.20, 0.10, (0.78, 0.12, 0.10)),
        (-0.16, 0.22, (0.88, 0.74, 0.14)),
        (-0.08, -0.22, (0.30, 0.60, 0.16)),
    )
    return [
        frustum((0, 0, -0.30), 0.78 * r, r, h, closed=(True, False)),
        frustum((0, 0, h - 0.30), 1.05 * r, 1.05 * r, 0.045, SHADE, closed=(False, False)),
        frustum((0, 0, -0.28), 0.88 * r, 0.9 * r, 0.04, DARK_WOOD),
        *(ellipsoid((x, y, h - 0.36), 0.22, colour) for x, y, colour in fruit),
        *arc((0, 0, h - 0.30), (r, 0.85), (0, 180), 8, 0.045, TRIM, "yz"),
    ]
