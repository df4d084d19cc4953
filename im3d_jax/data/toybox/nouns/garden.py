"""Food and plants. A builder takes a random generator and returns primitives, front towards +x, z up."""

from __future__ import annotations

import numpy as np

from im3d_jax.data.toybox.palette import (
    BEAK,
    COLOURS,
    CREAM,
    DARK_WOOD,
    INK,
    LAMP,
    LEAF,
    PAPER,
    WOOD,
)
from im3d_jax.data.toybox.primitives import (
    SHADE,
    TRIM,
    Primitive,
    box,
    ellipsoid,
    frustum,
    rod,
)


Random = np.random.Generator


def mushroom(rng: Random) -> list[Primitive]:
    r, h, stem = rng.uniform(0.58, 0.70), rng.uniform(0.40, 0.52), rng.uniform(0.18, 0.24)
    return [
        frustum((0, 0, -0.36), 1.15 * stem, 0.9 * stem, 0.36, CREAM),
        ellipsoid((0, 0, 0), (r, r, h), low=0.0, closed=True),
        frustum((0, 0, -0.10), 1.5 * stem, 0.9 * stem, 0.05, CREAM, closed=(False, False)),
        box((0.98 * stem, 0, -0.52), (0.06, 0.09, 0.15), DARK_WOOD),
        ellipsoid((0.88 * stem, 0.02, -0.24), (0.06, 0.06, 0.06), COLOURS["cyan"]),
        frustum((0.16, 0.40, -0.60), 0.07, 0.06, 0.12, CREAM),
        ellipsoid((0.16, 0.40, -0.50), (0.19, 0.19, 0.16), TRIM, low=0.0, closed=True),
    ]


def tree(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.40, 0.46)
    return [
        frustum((0, 0, -0.52), 0.15, 0.10, 0.36, DARK_WOOD),
        ellipsoid((0, 0, 0.30), (r, r, 0.44)),
        ellipsoid((0.16, 0.30, 0.12), 0.66 * r),
        ellipsoid((-0.08, -0.32, 0.08), 0.62 * r),
        rod((0.04, 0, -0.44), (0.46, -0.10, -0.14), 0.05, 0.035, DARK_WOOD),
        ellipsoid((0.50, -0.12, -0.10), 0.14, TRIM),
        ellipsoid((0.13, 0.0, -0.50), (0.05, 0.07, 0.09), INK),
        *(
            ellipsoid(p, 0.075, (0.80, 0.14, 0.10))
            for p in ((0.38, 0.12, 0.40), (0.30, -0.26, 0.28), (0.36, 0.42, 0.12))
        ),
    ]


def fir(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.48, 0.58)
    return [
        frustum((0, 0, -0.74), 0.10, 0.10, 0.16, DARK_WOOD),
        frustum((0, 0, -0.34), r, 0.12, 0.28),
        frustum((0, 0, 0.04), 0.78 * r, 0.10, 0.26),
        frustum((0, 0, 0.40), 0.56 * r, 0.0, 0.26),
        box((0, 0, 0.72), (0.03, 0.11, 0.11), LAMP, turn=(45, 0, 0)),
        *(
            ellipsoid((d * np.cos(a), d * np.sin(a), z), 0.075, c)
            for d, a, z, c in (
                (0.84 * r, 0.2, -0.48, COLOURS["red"]),
                (0.80 * r, -0.6, -0.44, COLOURS["yellow"]),
                (0.66 * r, 0.5, -0.10, COLOURS["blue"]),
                (0.66 * r, -0.3, -0.10, COLOURS["red"]),
                (0.44 * r, 0.1, 0.26, COLOURS["yellow"]),
            )
        ),
        box((0.34, 0.30, -0.80), (0.13, 0.13, 0.10), TRIM),
        box((0.34, 0.30, -0.80), (0.135, 0.04, 0.105), (0.80, 0.70, 0.2)),
    ]


def cake(rng: Random) -> list[Primitive]:
    r, h = rng.uniform(0.60, 0.68), rng.uniform(0.20, 0.26)
    tilt = 0.42
    return [
        frustum((0, 0, -0.52), 0.86, 0.90, 0.03, PAPER),
        frustum((0, 0, -0.5 + h), r, r, h),
        frustum((0, 0, -0.5 + 2 * h), 1.03 * r, 1.03 * r, 0.045, CREAM),
        frustum((0, 0, -0.45 + 2.8 * h), 0.62 * r, 0.62 * r, 0.75 * h, TRIM),
        frustum((0, 0, -0.45 + 3.55 * h), 0.65 * r, 0.65 * r, 0.04, CREAM),
        rod((0.05, tilt * r, -0.45 + 3.5 * h), (0.05, tilt * r, 3.5 * h - 0.10), 0.04, 0.04, COLOURS["cyan"]),
        ellipsoid((0.05, tilt * r, 3.5 * h - 0.04), (0.045, 0.045, 0.08), BEAK),
        rod((-0.1, -0.2 * r, -0.45 + 3.5 * h), (-0.1, -0.2 * r, 3.5 * h - 0.10), 0.04, 0.04, COLOURS["yellow"]),
        ellipsoid((-0.1, -0.2 * r, 3.5 * h - 0.04), (0.045, 0.045, 0.08), BEAK),
        ellipsoid((0.82 * r, 0, -0.42 + 2 * h), 0.10, COLOURS["red"]),
        ellipsoid((0.58 * r, -0.58 * r, -0.42 + 2 * h), 0.10, COLOURS["red"]),
        ellipsoid((0.58 * r, 0.58 * r, -0.42 + 2 * h), 0.10, COLOURS["red"]),
    ]


def burger(rng: Random) -> list[Primitive]:
    r, top = rng.uniform(0.64, 0.74), rng.uniform(0.36, 0.46)
    bun = (0.78, 0.52, 0.24)
    return [
        frustum((0, 0, -0.40), 0.9 * r, r, 0.10, bun),
        frustum((0, 0, -0.24), 1.06 * r, 1.06 * r, 0.07, (0.36, 0.20, 0.12)),
        box((0.1, 0.05, -0.15), (0.76 * r, 0.76 * r, 0.025), COLOURS["yellow"], turn=(0, 0, 30)),
        frustum((0, 0, -0.09), 1.10 * r, 1.12 * r, 0.035, LEAF),
        ellipsoid((0, 0, -0.05), (r, r, top), low=0.0, closed=True),
        rod((0.05, 0.0, top - 0.1), (0.12, 0.08, top + 0.36), 0.025, 0.025, WOOD),
        box((0.13, 0.24, top + 0.27), (0.02, 0.17, 0.10), (0.75, 0.14, 0.12)),
        ellipsoid((1.0 * r, -0.1, -0.14), (0.18, 0.24, 0.05), (0.78, 0.16, 0.10)),
    ]


def icecream(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.33, 0.38)
    return [
        frustum((0, 0, -0.38), 0.02, 0.32, 0.50, (0.74, 0.50, 0.24)),
        frustum((0, 0, 0.12), 0.33, 0.35, 0.06, (0.62, 0.38, 0.16)),
        ellipsoid((0, 0, 0.34), r),
        ellipsoid((0, 0, 0.70), 0.72 * r, TRIM),
        ellipsoid((0.06, 0, 0.98), 0.09, COLOURS["red"]),
        box((-0.06, 0.24, 0.86), (0.10, 0.03, 0.30), (0.50, 0.30, 0.16), turn=(-28, 0, 0)),
        rod((-0.16, -0.20, 0.6), (-0.26, -0.42, 1.0), 0.045, 0.045, CREAM),
    ]


def pear(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.48, 0.54)
    return [
        ellipsoid((0, 0, -0.28), (r, r, 0.9 * r)),
        frustum((0, 0, 0.18), 0.86 * r, 0.48 * r, 0.26),
        ellipsoid((0, 0, 0.43), (0.49 * r, 0.49 * r, 0.22)),
        rod((0, 0, 0.6), (0.08, 0, 0.88), 0.04, 0.05, DARK_WOOD),
        ellipsoid((0.16, 0.22, 0.74), (0.10, 0.24, 0.03), LEAF, turn=(18, -10, -20)),
        ellipsoid((0.80 * r, -0.10, -0.34), (0.20, 0.10, 0.10), (0.50, 0.30, 0.12)),
    ]


def apple(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.56, 0.62)
    return [
        ellipsoid((0, 0.10, 0), (r, 0.86 * r, 0.88 * r)),
        ellipsoid((0, -0.10, 0), (r, 0.86 * r, 0.88 * r)),
        ellipsoid((0, 0, -0.16), (0.80 * r, 0.86 * r, 0.80 * r)),
        rod((0, 0, 0.46), (0.06, 0.02, 0.86), 0.045, 0.055, DARK_WOOD),
        ellipsoid((0.14, 0.26, 0.70), (0.13, 0.27, 0.035), LEAF, turn=(14, -12, -24)),
        ellipsoid((0.92 * r, 0.16, 0.02), (0.14, 0.20, 0.20), CREAM),
    ]


def pumpkin(rng: Random) -> list[Primitive]:
    r, ribs = rng.uniform(0.40, 0.46), 7
    body = [
        ellipsoid((0.28 * np.cos(a), 0.28 * np.sin(a), 0), (r, 0.6 * r, 0.50), turn=(0, 0, float(np.degrees(a))))
        for a in 2 * np.pi * np.arange(ribs) / ribs
    ]
    front = 0.28 + 0.88 * r
    return [
        *body,
        rod((0, 0, 0.36), (0.10, 0, 0.72), 0.10, 0.07, LEAF),
        *(box((front, s * 0.20, 0.13), (0.09, 0.09, 0.09), INK, taper=(0, 1), turn=(0, 0, s * 16)) for s in (-1, 1)),
        box((front + 0.03, 0, -0.02), (0.08, 0.05, 0.05), INK, taper=(0, 1)),
        box((front, 0, -0.18), (0.09, 0.24, 0.05), INK),
        *(box((front - 0.02, s * 0.23, -0.13), (0.09, 0.05, 0.06), INK) for s in (-1, 1)),
    ]


def cactus(rng: Random) -> list[Primitive]:
    r, h = rng.uniform(0.17, 0.21), rng.uniform(0.40, 0.48)
    left, right = rng.uniform(-0.05, 0.12), rng.uniform(0.10, 0.28)
    return [
        frustum((0, 0, -0.70), 0.28, 0.36, 0.20, (0.66, 0.36, 0.22)),
        frustum((0, 0, -0.50), 0.40, 0.40, 0.05, (0.60, 0.32, 0.20)),
        frustum((0, 0, h - 0.48), r, r, h),
        ellipsoid((0, 0, 2 * h - 0.48), r),
        rod((0, 0.1, left), (0, 0.42, left), 0.11, 0.11, TRIM),
        rod((0, 0.42, left - 0.08), (0, 0.42, left + 0.26), 0.11, 0.11, TRIM),
        ellipsoid((0, 0.42, left + 0.26), 0.11, TRIM),
        rod((0, -0.1, right - 0.2), (0, -0.38, right - 0.2), 0.10, 0.10, TRIM),
        rod((0, -0.38, right - 0.28), (0, -0.38, right), 0.10, 0.10, TRIM),
        ellipsoid((0, -0.38, right), 0.10, TRIM),
        ellipsoid((0.10, 0.03, 2 * h - 0.48 + 0.9 * r), (0.11, 0.11, 0.08), COLOURS["pink"]),
        ellipsoid((0.9 * r, 0, 0.02), (0.07, 0.07, 0.07), COLOURS["yellow"]),
    ]


def flower(rng: Random) -> list[Primitive]:
    count, r = int(rng.integers(5, 8)), rng.uniform(0.20, 0.24)
    z = 0.40
    petals = [
        ellipsoid(
            (0.08, 0.30 * np.cos(a), z + 0.30 * np.sin(a)),
            (0.06, r, 0.70 * r),
            turn=(float(np.degrees(a)), 0, 0),
        )
        for a in 2 * np.pi * np.arange(count) / count
    ]
    return [
        frustum((0, 0, -0.66), 0.24, 0.32, 0.20, (0.66, 0.36, 0.22)),
        frustum((0, 0, -0.47), 0.29, 0.29, 0.02, DARK_WOOD),
        rod((0, 0, -0.5), (0, 0, z), 0.045, 0.045, LEAF),
        *petals,
        ellipsoid((0.12, 0, z), (0.10, 0.18, 0.18), COLOURS["yellow"]),
        ellipsoid((0.02, 0.24, -0.16), (0.08, 0.26, 0.04), LEAF, turn=(25, 0, 0)),
        ellipsoid((0.02, -0.22, -0.26), (0.08, 0.24, 0.04), LEAF, turn=(-25, 0, 0)),
    ]


def carrot(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.26, 0.32)
    leaves = [
        rod((0, 0, 0.36), (0.24 * np.cos(a), 0.24 * np.sin(a), 0.92), 0.03, 0.09, LEAF) for a in (0.3, 1.6, 2.9, 4.2)
    ]
    return [
        frustum((0, 0, -0.26), 0.03, r, 0.58),
        ellipsoid((0, 0, 0.32), (r, r, 0.12), TRIM),
        *leaves,
        ellipsoid((0.30, 0, 0.66), (0.24, 0.10, 0.05), LEAF, turn=(0, -35, 0)),
        *(ellipsoid((0.86 * r, s * 0.09, 0.14), 0.05, INK) for s in (-1, 1)),
        box((0.80 * r, 0, -0.02), (0.04, 0.09, 0.025), SHADE),
    ]
