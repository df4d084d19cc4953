"""Things of the house. A builder takes a random generator and returns primitives, front towards +x, z up."""

from __future__ import annotations

import numpy as np

from im3d_jax.data.toybox.palette import (
    CREAM,
    DARK_METAL,
    DARK_WOOD,
    GLASS,
    GOLD,
    INK,
    LAMP,
    METAL,
    PAPER,
    WOOD,
)
from im3d_jax.data.toybox.primitives import (
    MAIN,
    SHADE,
    TRIM,
    Primitive,
    arc,
    box,
    ellipsoid,
    frustum,
    path,
    rod,
)


Random = np.random.Generator


def mug(rng: Random) -> list[Primitive]:
    r, h, top = rng.uniform(0.42, 0.52), rng.uniform(0.48, 0.62), rng.uniform(0.98, 1.12)
    side = rng.choice((-1.0, 1.0))
    return [
        frustum((0, 0, 0), r, r * top, h, closed=(True, False)),
        frustum((0, 0, 0.45 * h), r * 0.9, r * 0.9, 0.02, (0.30, 0.18, 0.10)),
        *arc((0, side * r * 0.95, 0), (side * 0.36, 0.62 * h), (-90, 90), 5, 0.075, TRIM, "yz"),
    ]


def teapot(rng: Random) -> list[Primitive]:
    r, flat = rng.uniform(0.55, 0.62), rng.uniform(0.78, 0.95)
    top = r * flat
    return [
        ellipsoid((0, 0, 0), (r, r, top)),
        frustum((0, 0, -0.92 * top), 0.30, 0.34, 0.06, TRIM),
        ellipsoid((0, 0, 0.86 * top), (0.30, 0.30, 0.14), TRIM),
        ellipsoid((0, 0, 0.86 * top + 0.19), 0.085, SHADE),
        rod((0.42, 0, -0.16), (0.86, 0, 0.16), 0.16, 0.10, TRIM),
        rod((0.84, 0, 0.14), (1.02, 0, 0.40), 0.10, 0.075, TRIM),
        *arc((-0.50, 0, 0.04), (0.46, 0.36), (90, 270), 5, 0.065, TRIM),
    ]


def chair(rng: Random) -> list[Primitive]:
    w, seat, back = rng.uniform(0.40, 0.48), rng.uniform(0.45, 0.55), rng.uniform(0.62, 0.85)
    legs = [
        frustum((x, y, -0.5 * seat), 0.05, 0.06, 0.5 * seat, DARK_WOOD)
        for x in (w - 0.07, 0.07 - w)
        for y in (w - 0.07, 0.07 - w)
    ]
    return [
        *legs,
        box((0, 0, 0.05), (w, w, 0.06)),
        box((-w + 0.05, 0, 0.1 + 0.66 * back), (0.05, w, 0.34 * back), turn=(0, -6, 0)),
        box((-w + 0.05, w - 0.07, 0.1 + 0.3 * back), (0.045, 0.05, 0.3 * back), DARK_WOOD),
        box((-w + 0.05, 0.07 - w, 0.1 + 0.3 * back), (0.045, 0.05, 0.3 * back), DARK_WOOD),
    ]


def table(rng: Random) -> list[Primitive]:
    x, y, h = rng.uniform(0.55, 0.65), rng.uniform(0.75, 0.9), rng.uniform(0.30, 0.42)
    legs = [
        box((sx * (x - 0.1), sy * (y - 0.1), -h), (0.06, 0.06, h), DARK_WOOD, taper=(-0.3, -0.3))
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return [
        *legs,
        box((0, 0, 0.05), (x, y, 0.06)),
        box((x - 0.08, 0, -0.10), (0.05, 0.5 * y, 0.11), TRIM),
        ellipsoid((x - 0.02, 0, -0.10), 0.045, GOLD),
    ]


def lamp(rng: Random) -> list[Primitive]:
    r, top, h = rng.uniform(0.42, 0.52), rng.uniform(0.22, 0.32), rng.uniform(0.24, 0.32)
    return [
        frustum((0, 0, -0.80), 0.34, 0.26, 0.06, DARK_METAL),
        rod((0, 0, -0.78), (0, 0, 0.2), 0.05, 0.05, METAL),
        ellipsoid((0, 0, 0.16), 0.13, LAMP),
        frustum((0, 0, 0.30), r, top, h, closed=(False, False)),
        rod((0.30, 0, 0.12), (0.30, 0, -0.38), 0.02, 0.02, GOLD),
        ellipsoid((0.30, 0, -0.40), 0.06, GOLD),
        box((0.24, 0, -0.72), (0.05, 0.10, 0.05), TRIM),
    ]


def vase(rng: Random) -> list[Primitive]:
    r, belly = rng.uniform(0.40, 0.48), rng.uniform(0.40, 0.50)
    return [
        frustum((0, 0, -0.58), 0.24, 0.28, 0.06, TRIM),
        ellipsoid((0, 0, -0.18), (r, r, belly)),
        frustum((0, 0, 0.34), 0.17, 0.15, 0.16, TRIM, closed=(False, False)),
        frustum((0, 0, 0.56), 0.15, 0.27, 0.08, closed=(False, False)),
        *arc((0, 0.20, 0.20), (0.26, 0.28), (90, -60), 4, 0.05, SHADE, "yz"),
    ]


def bottle(rng: Random) -> list[Primitive]:
    r, h = rng.uniform(0.26, 0.32), rng.uniform(0.42, 0.5)
    return [
        frustum((0, 0, -0.36), r, r, h),
        ellipsoid((0, 0, h - 0.36), (r, r, 0.24), low=0.0),
        frustum((0, 0, h - 0.36 + 0.32), 0.11, 0.10, 0.20, TRIM),
        frustum((0, 0, h + 0.20), 0.125, 0.125, 0.06, DARK_WOOD),
        box((0.62 * r, 0, -0.36), (0.42 * r, 0.7 * r, 0.45 * h), PAPER),
        box((0.66 * r, 0, -0.30), (0.42 * r, 0.35 * r, 0.12 * h), INK),
    ]


def bucket(rng: Random) -> list[Primitive]:
    r, h, foot = rng.uniform(0.50, 0.58), rng.uniform(0.42, 0.52), rng.uniform(0.68, 0.78)
    lean = rng.uniform(0.30, 0.55)
    rim = (0.0, 0.0, h)
    points = [
        (0.0, -r, h),
        (lean * 0.8, -0.75 * r, h + 0.30),
        (lean * 1.2, -0.28 * r, h + 0.48),
        (lean * 1.2, 0.28 * r, h + 0.48),
        (lean * 0.8, 0.75 * r, h + 0.30),
        (0.0, r, h),
    ]
    return [
        frustum((0, 0, 0), foot * r, r, h, closed=(True, False)),
        frustum(rim, 1.06 * r, 1.06 * r, 0.04, TRIM, closed=(False, False)),
        *path(points, 0.035, METAL),
        box((0.86 * r, 0, 0.1 * h), (0.06, 0.16, 0.13), PAPER, turn=(0, 12, 0)),
    ]


def hammer(rng: Random) -> list[Primitive]:
    length = rng.uniform(0.72, 0.82)
    return [
        frustum((0, 0, -0.2), 0.085, 0.065, length, WOOD),
        frustum((0, 0, -0.62), 0.11, 0.09, 0.28),
        box((0, 0, length - 0.18), (0.17, 0.13, 0.12), DARK_METAL),
        rod((0.15, 0, length - 0.18), (0.46, 0, length - 0.18), 0.09, 0.10, METAL),
        rod((0.42, 0, length - 0.18), (0.54, 0, length - 0.18), 0.16, 0.16),
        box((-0.38, 0.05, length - 0.19), (0.27, 0.05, 0.07), METAL, turn=(0, -18, -8)),
        box((-0.38, -0.05, length - 0.19), (0.27, 0.05, 0.07), METAL, turn=(0, -18, 8)),
    ]


def key(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.26, 0.32)
    teeth = rng.uniform(0.14, 0.22, 3)
    return [
        *arc((0, 0, 0.50), (r, r), (0, 360), 9, 0.10, MAIN, "yz"),
        rod((0, 0, 0.50 - r), (0, 0, -0.88), 0.085),
        frustum((0, 0, 0.16), 0.14, 0.14, 0.05, TRIM),
        *(
            box((0, 0.08 + 0.5 * t, -0.50 - 0.15 * i), (0.06, 0.5 * t + 0.06, 0.05), TRIM)
            for i, t in enumerate(float(x) + 0.04 for x in teeth)
        ),
    ]


def bench(rng: Random) -> list[Primitive]:
    w, back = rng.uniform(0.80, 0.92), rng.uniform(0.14, 0.18)
    ends = [
        part
        for y in (-w + 0.12, w - 0.12)
        for part in (
            box((0.02, y, -0.22), (0.30, 0.05, 0.20), DARK_METAL, taper=(0.3, 0.0)),
            box((-0.30, y, 0.24), (0.035, 0.05, 0.32), DARK_METAL, turn=(0, -12, 0)),
            box((0.02, y, 0.20), (0.27, 0.05, 0.03), DARK_METAL),
            box((0.26, y, 0.10), (0.03, 0.05, 0.10), DARK_METAL),
        )
    ]
    return [
        *ends,
        box((0.02, 0, 0.0), (0.32, w, 0.045)),
        box((-0.27, 0, 0.24), (0.04, w, back * 0.62), turn=(0, -12, 0)),
        box((-0.33, 0, 0.50), (0.04, w, back * 0.62), turn=(0, -12, 0)),
    ]


def sofa(rng: Random) -> list[Primitive]:
    w, back = rng.uniform(0.68, 0.82), rng.uniform(0.34, 0.42)
    return [
        box((0, 0, -0.16), (0.40, w, 0.14), TRIM),
        box((0.06, -0.5 * w, 0.04), (0.36, 0.48 * w, 0.09)),
        box((0.06, 0.5 * w, 0.04), (0.36, 0.48 * w, 0.09)),
        box((-0.36, 0, back - 0.06), (0.11, w, back), turn=(0, -6, 0)),
        box((0, w + 0.07, 0.02), (0.42, 0.09, 0.24), TRIM),
        box((0, -w - 0.07, 0.02), (0.42, 0.09, 0.24), TRIM),
        rod((-0.42, w + 0.07, 0.26), (0.42, w + 0.07, 0.26), 0.11, 0.11, SHADE),
        rod((-0.42, -w - 0.07, 0.26), (0.42, -w - 0.07, 0.26), 0.11, 0.11, SHADE),
        box((0, 0, -0.34), (0.34, w, 0.05), DARK_WOOD),
    ]


def bed(rng: Random) -> list[Primitive]:
    w, length, head = rng.uniform(0.46, 0.58), rng.uniform(0.80, 0.9), rng.uniform(0.34, 0.46)
    return [
        box((0, 0, -0.22), (length, w, 0.09), DARK_WOOD),
        box((0, 0, -0.06), (length - 0.04, w - 0.03, 0.10), PAPER),
        box((0.22, 0, -0.02), (length - 0.24, w + 0.02, 0.11)),
        box((-length, 0, head - 0.30), (0.06, w + 0.04, head), WOOD),
        box((length, 0, -0.16), (0.05, w + 0.04, 0.20), WOOD),
        ellipsoid((-0.70 * length, 0, 0.10), (0.17, 0.72 * w, 0.10), PAPER),
        *(
            box((x, y, -0.36), (0.05, 0.05, 0.10), DARK_WOOD)
            for x in (length - 0.06, 0.06 - length)
            for y in (w - 0.05, 0.05 - w)
        ),
    ]


def cupboard(rng: Random) -> list[Primitive]:
    w, h, d = rng.uniform(0.44, 0.54), rng.uniform(0.66, 0.78), rng.uniform(0.26, 0.34)
    doors = [box((d + 0.02, s * 0.5 * w, 0), (0.03, 0.46 * w, 0.90 * h)) for s in (-1, 1)]
    knobs = [ellipsoid((d + 0.08, s * 0.10, 0.0), 0.05, GOLD) for s in (-1, 1)]
    feet = [
        box((s * (d - 0.06), y * (w - 0.07), -h - 0.07), (0.06, 0.06, 0.08), DARK_WOOD)
        for s in (-1, 1)
        for y in (-1, 1)
    ]
    top = box((0.02, 0, h + 0.03), (d + 0.06, w + 0.06, 0.04), DARK_WOOD)
    return [box((0, 0, 0), (d, w, h), SHADE), *doors, *knobs, *feet, top]


def clock(rng: Random) -> list[Primitive]:
    r, hour, minute = rng.uniform(0.58, 0.66), rng.uniform(0, 6.28), rng.uniform(0, 6.28)
    front = 0.21

    def hand(angle: float, length: float) -> Primitive:
        tip = (front + 0.02, length * np.cos(angle), length * np.sin(angle))
        return rod((front + 0.02, 0.0, 0.0), tip, 0.04, 0.03, INK)

    marks = [
        box((front, 0.80 * r * c, 0.80 * r * s), (0.02, 0.045, 0.045), INK)
        for c, s in ((1, 0), (-1, 0), (0, 1), (0, -1))
    ]
    bells = [ellipsoid((0, s * 0.36, r + 0.06), (0.17, 0.20, 0.15), METAL, turn=(s * -35.0, 0, 0)) for s in (-1, 1)]
    feet = [rod((0, s * 0.30, -0.6 * r), (0, s * 0.44, -r - 0.16), 0.06, 0.05, DARK_METAL) for s in (-1, 1)]
    return [
        rod((-0.18, 0, 0), (0.20, 0, 0), r),
        rod((0.10, 0, 0), (front, 0, 0), 0.86 * r, 0.86 * r, PAPER),
        hand(hour, 0.48 * r),
        hand(minute, 0.70 * r),
        *marks,
        *bells,
        *feet,
        rod((0, 0, r), (0, 0, r + 0.22), 0.04, 0.04, DARK_METAL),
    ]


def umbrella(rng: Random) -> list[Primitive]:
    r, h = rng.uniform(0.74, 0.86), rng.uniform(0.38, 0.46)
    return [
        ellipsoid((0, 0, 0.16), (r, r, h), low=0.05),
        rod((0, 0, -0.62), (0, 0, h + 0.28), 0.035, 0.035, WOOD),
        *arc((0.17, 0, -0.62), (0.17, 0.18), (180, 360), 4, 0.06, DARK_WOOD),
        ellipsoid((0, 0, h + 0.30), 0.06, GOLD),
        ellipsoid((0.72 * r, 0, 0.16 + 0.66 * h), (0.12, 0.16, 0.10), GOLD),
        box((0.95 * r, 0, 0.10), (0.02, 0.08, 0.14), GOLD),
    ]


def telescope(rng: Random) -> list[Primitive]:
    tilt, r = np.radians(rng.uniform(18, 38)), rng.uniform(0.15, 0.19)
    c, s = float(np.cos(tilt)), float(np.sin(tilt))
    at = lambda d: (d * c, 0.0, 0.22 + d * s)  # noqa: E731
    legs = [
        rod((0, 0, 0.16), (0.48 * np.cos(a), 0.48 * np.sin(a), -0.85), 0.05, 0.04, WOOD) for a in (0.0, 2.094, 4.189)
    ]
    return [
        rod(at(-0.35), at(0.62), r),
        rod(at(0.60), at(0.78), 1.25 * r, 1.25 * r, SHADE),
        rod(at(0.77), at(0.785), 1.08 * r, 1.08 * r, GLASS),
        rod(at(-0.66), at(-0.34), 0.62 * r, 0.62 * r, METAL),
        rod(at(-0.76), at(-0.64), 0.80 * r, 0.80 * r, INK),
        ellipsoid((0, 0, 0.16), 0.12, DARK_METAL),
        *legs,
    ]


def camera(rng: Random) -> list[Primitive]:
    w, h, r = rng.uniform(0.62, 0.72), rng.uniform(0.38, 0.44), rng.uniform(0.26, 0.30)
    return [
        box((0, 0, 0), (0.24, w, h)),
        rod((0.2, 0, -0.04), (0.46, 0, -0.04), r, r, DARK_METAL),
        rod((0.44, 0, -0.04), (0.56, 0, -0.04), 0.86 * r, 0.80 * r, INK),
        rod((0.50, 0, -0.04), (0.57, 0, -0.04), 0.58 * r, 0.58 * r, GLASS),
        box((0, 0, h + 0.09), (0.18, 0.24, 0.12), SHADE, taper=(0.2, 0.4)),
        box((0.25, 0.70 * w, 0.62 * h), (0.03, 0.13, 0.09), LAMP),
        frustum((0, -0.66 * w, h + 0.05), 0.11, 0.11, 0.06, METAL),
        box((-0.25, 0, -0.02), (0.02, 0.62 * w, 0.66 * h), GLASS),
    ]


def drum(rng: Random) -> list[Primitive]:
    r, h = rng.uniform(0.56, 0.66), rng.uniform(0.32, 0.46)
    return [
        frustum((0, 0, 0), r, r, h),
        frustum((0, 0, h), 1.05 * r, 1.05 * r, 0.06, GOLD),
        frustum((0, 0, -h), 1.05 * r, 1.05 * r, 0.06, GOLD),
        frustum((0, 0, h + 0.05), 0.94 * r, 0.94 * r, 0.02, CREAM),
        rod((-0.2, -0.35, h + 0.12), (0.62, 0.30, h + 0.16), 0.035, 0.035, WOOD),
        ellipsoid((0.66, 0.33, h + 0.16), 0.085, DARK_WOOD),
        rod((-0.35, 0.0, h + 0.12), (0.50, -0.50, h + 0.16), 0.035, 0.035, WOOD),
        ellipsoid((0.54, -0.52, h + 0.16), 0.085, DARK_WOOD),
    ]


def guitar(rng: Random) -> list[Primitive]:
    low, up, d = rng.uniform(0.40, 0.46), rng.uniform(0.29, 0.34), rng.uniform(0.10, 0.13)
    return [
        rod((-d, 0, -0.50), (d, 0, -0.50), low),
        rod((-d, 0, -0.06), (d, 0, -0.06), up),
        rod((0, 0, -0.22), (d + 0.01, 0, -0.22), 0.14, 0.14, INK),
        box((d + 0.03, 0, -0.62), (0.03, 0.17, 0.045), DARK_WOOD),
        box((d, 0, 0.46), (0.05, 0.065, 0.56), DARK_WOOD),
        box((d - 0.02, 0, 1.08), (0.045, 0.11, 0.14), SHADE, turn=(0, -10, 0)),
        box((d + 0.055, 0, 0.20), (0.012, 0.035, 0.80), CREAM),
        *(
            rod((d - 0.02, s * 0.10, z), (d - 0.02, s * 0.19, z), 0.035, 0.035, METAL)
            for s in (-1, 1)
            for z in (1.02, 1.14)
        ),
    ]


def hat(rng: Random) -> list[Primitive]:
    brim, r, h = rng.uniform(0.66, 0.78), rng.uniform(0.36, 0.42), rng.uniform(0.24, 0.40)
    return [
        frustum((0, 0, -h - 0.02), brim, brim, 0.03, TRIM),
        frustum((0, 0, 0), r, 0.92 * r, h),
        frustum((0, 0, -0.72 * h), 1.03 * r, 1.02 * r, 0.08, INK),
        ellipsoid((0.55 * r, -0.86 * r, -0.45 * h + 0.20), (0.06, 0.16, 0.36), (0.80, 0.24, 0.20), turn=(28, 0, -30)),
        ellipsoid((1.02 * r, 0, -0.72 * h), (0.06, 0.10, 0.10), GOLD),
    ]


def shoe(rng: Random) -> list[Primitive]:
    length, w = rng.uniform(0.72, 0.82), rng.uniform(0.28, 0.33)
    return [
        box((-0.05, 0, -0.34), (0.92 * length, w, 0.06), PAPER),
        ellipsoid((length - 0.06, 0, -0.34), (0.16, w, 0.06), PAPER),
        ellipsoid((0.44, 0, -0.30), (0.42, w, 0.30), low=0.0, closed=True),
        box((-0.40, 0, -0.06), (0.40, w, 0.26), taper=(0.25, 0.15)),
        frustum((-0.46, 0, 0.28), 0.29, 0.31, 0.14, TRIM, squash=(1.0, 0.84), closed=(False, False)),
        *(
            rod(
                (0.02 + 0.13 * i, -0.17, 0.16 - 0.07 * i),
                (0.02 + 0.13 * i, 0.17, 0.16 - 0.07 * i),
                0.04,
                0.04,
                PAPER,
            )
            for i in range(3)
        ),
        box((-0.80, 0, 0.0), (0.04, 0.10, 0.20), SHADE),
    ]
