"""Animals and figures. A builder takes a random generator and returns primitives, face towards +x, z up."""

from __future__ import annotations

import numpy as np

from im3d_jax.data.toybox.palette import (
    BEAK,
    COLOURS,
    CREAM,
    DARK_METAL,
    DARK_WOOD,
    GLASS,
    INK,
    LAMP,
    METAL,
    PAPER,
    SNOW,
    WOOD,
)
from im3d_jax.data.toybox.primitives import (
    SHADE,
    TRIM,
    Primitive,
    Vector,
    box,
    ellipsoid,
    frustum,
    rod,
)


Random = np.random.Generator


def _eyes(x: float, y: float, z: float, radius: float = 0.05) -> list[Primitive]:
    return [ellipsoid((x, s * y, z), radius, INK) for s in (-1, 1)]


def _legs(xs: tuple[float, ...], y: float, top: float, bottom: float, radius: float) -> list[Primitive]:
    return [rod((x, s * y, top), (x, s * y, bottom), radius, radius, SHADE) for x in xs for s in (-1, 1)]


def snowman(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.40, 0.46)
    side = float(rng.choice((-1.0, 1.0)))
    return [
        ellipsoid((0, 0, -0.52), (r, r, 0.9 * r), SNOW),
        ellipsoid((0, 0, 0.06), 0.72 * r, SNOW),
        ellipsoid((0, 0, 0.48), 0.54 * r, SNOW),
        frustum((0, 0, 0.70), 0.32, 0.32, 0.025),
        frustum((0, 0, 0.86), 0.21, 0.20, 0.16),
        frustum((0, 0, 0.32), 0.24, 0.24, 0.06, TRIM),
        box((0.22, side * 0.14, 0.14), (0.04, 0.06, 0.18), TRIM, turn=(side * 12, 0, 0)),
        rod((0.48 * r, 0, 0.48), (0.48 * r + 0.26, 0, 0.46), 0.06, 0.01, BEAK),
        *_eyes(0.47 * r, 0.09, 0.56, 0.04),
        rod((0, 0.24, 0.10), (0.06, 0.72, 0.34), 0.035, 0.025, DARK_WOOD),
        rod((0, -0.24, 0.10), (0.06, -0.72, 0.30), 0.035, 0.025, DARK_WOOD),
        ellipsoid((0.70 * r, 0, 0.10), 0.045, INK),
        ellipsoid((0.66 * r, 0, -0.08), 0.045, INK),
    ]


def robot(rng: Random) -> list[Primitive]:
    w, h, head = rng.uniform(0.30, 0.38), rng.uniform(0.28, 0.34), rng.uniform(0.19, 0.24)
    lift = float(rng.uniform(-60, 60))
    hand = (0.30 * float(np.cos(np.radians(lift))), -w - 0.26, 0.12 + 0.30 * float(np.sin(np.radians(lift))))
    return [
        box((0, 0, 0), (0.22, w, h)),
        box((0, 0, h + 0.08 + head), (head, 1.15 * head, head), TRIM),
        frustum((0, 0, h + 0.05), 0.10, 0.10, 0.06, METAL),
        *(ellipsoid((head, s * 0.5 * head, h + 0.14 + head), (0.04, 0.07, 0.07), LAMP) for s in (-1, 1)),
        box((head, 0, h + 0.08 + 0.5 * head), (0.02, 0.6 * head, 0.03), INK),
        rod((0, 0, h + 0.08 + 2 * head), (0, 0, h + 0.24 + 2 * head), 0.025, 0.025, METAL),
        ellipsoid((0, 0, h + 0.28 + 2 * head), 0.06, (0.80, 0.14, 0.12)),
        rod((0, w + 0.06, 0.18), (0.04, w + 0.16, -0.24), 0.075, 0.075, METAL),
        ellipsoid((0.04, w + 0.16, -0.30), 0.11, SHADE),
        rod((0, -w - 0.06, 0.18), hand, 0.075, 0.075, METAL),
        ellipsoid(hand, 0.11, SHADE),
        box((0, 0.5 * w, -h - 0.22), (0.10, 0.10, 0.24), METAL),
        box((0, -0.5 * w, -h - 0.22), (0.10, 0.10, 0.24), METAL),
        box((0.06, 0.5 * w, -h - 0.48), (0.20, 0.13, 0.06), SHADE),
        box((0.06, -0.5 * w, -h - 0.48), (0.20, 0.13, 0.06), SHADE),
        box((0.22, 0, 0.04), (0.02, 0.55 * w, 0.10), GLASS),
        ellipsoid((0.23, 0, -0.16), 0.05, (0.80, 0.14, 0.12)),
    ]


def duck(rng: Random) -> list[Primitive]:
    r, head = rng.uniform(0.38, 0.44), rng.uniform(0.25, 0.29)
    return [
        ellipsoid((-0.08, 0, -0.24), (0.58, r, 0.36)),
        rod((-0.50, 0, -0.16), (-0.80, 0, 0.12), 0.20, 0.04, TRIM),
        ellipsoid((0.32, 0, 0.36), head, TRIM),
        rod((0.28, 0, 0.0), (0.32, 0, 0.3), 0.22, 0.18, TRIM),
        ellipsoid((0.62, 0, 0.30), (0.19, 0.14, 0.05), BEAK),
        *_eyes(0.48, 0.17, 0.46),
        ellipsoid((-0.14, r, -0.18), (0.32, 0.08, 0.20), SHADE),
        ellipsoid((-0.14, -r, -0.18), (0.32, 0.08, 0.20), SHADE),
    ]


def _quadruped(length: float, girth: float, legs: float, head: float, at: Vector, thick: float) -> list[Primitive]:
    return [
        ellipsoid((0, 0, 0), (length, girth, girth)),
        ellipsoid(at, head, TRIM),
        *_legs((0.62 * length, -0.62 * length), 0.55 * girth, -0.3 * girth, -girth - legs, thick),
    ]


def cat(rng: Random) -> list[Primitive]:
    head = rng.uniform(0.24, 0.28)
    x, z = 0.50, 0.40
    return [
        *_quadruped(0.56, rng.uniform(0.25, 0.29), 0.20, head, (x, 0, z), 0.075),
        rod((0.34, 0, 0.1), (x, 0, z - 0.1), 0.17, 0.16, TRIM),
        *(rod((x - 0.02, s * 0.15, z + 0.14), (x - 0.02, s * 0.20, z + 0.40), 0.11, 0.01, SHADE) for s in (-1, 1)),
        *_eyes(x + 0.20, 0.11, z + 0.08, 0.055),
        ellipsoid((x + head, 0, z - 0.06), (0.05, 0.06, 0.04), COLOURS["pink"]),
        ellipsoid((x + 0.88 * head, 0, z - 0.12), (0.05, 0.11, 0.06), CREAM),
        rod((-0.50, 0, 0.06), (-0.74, 0, 0.26), 0.06, 0.06, TRIM),
        rod((-0.74, 0, 0.25), (-0.70, 0, 0.66), 0.06, 0.05, TRIM),
        rod((-0.70, 0, 0.65), (-0.58, 0, 0.80), 0.05, 0.04, SHADE),
    ]


def dog(rng: Random) -> list[Primitive]:
    ear = rng.uniform(0.18, 0.24)
    x, z = 0.58, 0.40
    return [
        *_quadruped(0.58, rng.uniform(0.26, 0.30), 0.28, 0.24, (x, 0, z), 0.085),
        rod((0.40, 0, 0.1), (x - 0.04, 0, z), 0.18, 0.15, TRIM),
        rod((x + 0.1, 0, z - 0.05), (x + 0.40, 0, z - 0.09), 0.15, 0.12, TRIM),
        ellipsoid((x + 0.42, 0, z - 0.04), 0.07, INK),
        *(ellipsoid((x - 0.04, s * 0.25, z - 0.02), (0.10, 0.05, ear), SHADE, turn=(s * 14, 0, 0)) for s in (-1, 1)),
        *_eyes(x + 0.19, 0.12, z + 0.10, 0.05),
        rod((-0.52, 0, 0.10), (-0.84, 0, 0.44), 0.07, 0.03, TRIM),
        frustum((0.48, 0, 0.20), 0.20, 0.19, 0.04, (0.75, 0.14, 0.12), turn=(0, 35, 0)),
    ]


def pig(rng: Random) -> list[Primitive]:
    girth = rng.uniform(0.36, 0.41)
    return [
        *_quadruped(0.60, girth, 0.14, 0.29, (0.58, 0, 0.16), 0.10),
        rod((0.78, 0, 0.10), (0.96, 0, 0.08), 0.15, 0.14, TRIM),
        *(ellipsoid((0.97, s * 0.06, 0.09), (0.015, 0.035, 0.05), INK) for s in (-1, 1)),
        *(
            box((0.56, s * 0.19, 0.46), (0.04, 0.09, 0.11), SHADE, turn=(s * -20.0, 15, 0), taper=(0, 0.9))
            for s in (-1, 1)
        ),
        *_eyes(0.79, 0.15, 0.30, 0.045),
        rod((-0.58, 0, 0.10), (-0.70, 0.05, 0.24), 0.045, 0.045, SHADE),
        rod((-0.70, 0.05, 0.24), (-0.76, -0.06, 0.16), 0.045, 0.03, SHADE),
    ]


def cow(rng: Random) -> list[Primitive]:
    girth = rng.uniform(0.29, 0.34)
    x, z = 0.72, 0.24
    return [
        box((0, 0, 0.02), (0.56, girth, girth)),
        *_legs((0.44, -0.44), 0.20, -0.2, -0.72, 0.09),
        box((x, 0, z), (0.20, 0.17, 0.18), TRIM),
        box((x + 0.22, 0, z - 0.08), (0.09, 0.15, 0.11), COLOURS["pink"]),
        *(ellipsoid((x + 0.31, s * 0.07, z - 0.06), (0.015, 0.03, 0.03), INK) for s in (-1, 1)),
        *(rod((x, s * 0.12, z + 0.16), (x + 0.04, s * 0.24, z + 0.38), 0.05, 0.015, CREAM) for s in (-1, 1)),
        *(ellipsoid((x - 0.06, s * 0.27, z + 0.08), (0.04, 0.12, 0.07), SHADE) for s in (-1, 1)),
        *_eyes(x + 0.19, 0.12, z + 0.08, 0.04),
        rod((-0.56, 0, 0.20), (-0.70, 0, -0.26), 0.035, 0.03, TRIM),
        ellipsoid((-0.70, 0, -0.32), (0.06, 0.06, 0.11), INK),
        ellipsoid((-0.26, 0, -girth), (0.16, 0.13, 0.10), COLOURS["pink"]),
    ]


def elephant(rng: Random) -> list[Primitive]:
    ear = rng.uniform(0.26, 0.32)
    return [
        ellipsoid((-0.14, 0, 0.02), (0.54, 0.38, 0.40)),
        *_legs((0.18, -0.44), 0.20, -0.1, -0.66, 0.13),
        ellipsoid((0.46, 0, 0.22), (0.28, 0.27, 0.29), TRIM),
        *(ellipsoid((0.34, s * 0.34, 0.24), (0.06, ear, ear), SHADE, turn=(0, 0, s * -25.0)) for s in (-1, 1)),
        rod((0.64, 0, 0.14), (0.84, 0, -0.14), 0.12, 0.09, TRIM),
        rod((0.84, 0, -0.13), (0.86, 0, -0.46), 0.09, 0.07, TRIM),
        rod((0.86, 0, -0.45), (1.00, 0, -0.54), 0.07, 0.06, TRIM),
        *(rod((0.62, s * 0.16, 0.06), (0.86, s * 0.20, -0.06), 0.05, 0.01, PAPER) for s in (-1, 1)),
        *_eyes(0.68, 0.16, 0.32, 0.045),
        rod((-0.66, 0, 0.08), (-0.80, 0, -0.28), 0.04, 0.03, SHADE),
    ]


def penguin(rng: Random) -> list[Primitive]:
    r, h = rng.uniform(0.36, 0.42), rng.uniform(0.50, 0.56)
    return [
        ellipsoid((0, 0, -0.16), (r, r, h)),
        ellipsoid((0.15, 0, -0.20), (0.72 * r, 0.74 * r, 0.82 * h), PAPER),
        ellipsoid((0.02, 0, 0.44), 0.27, TRIM),
        *(ellipsoid((0.20, s * 0.12, 0.48), (0.09, 0.10, 0.12), PAPER) for s in (-1, 1)),
        *_eyes(0.28, 0.12, 0.50, 0.045),
        rod((0.26, 0, 0.40), (0.50, 0, 0.36), 0.08, 0.01, BEAK),
        *(ellipsoid((0, s * (r + 0.04), -0.12), (0.14, 0.06, 0.36), SHADE, turn=(s * 16, 0, 0)) for s in (-1, 1)),
        *(ellipsoid((0.16, s * 0.18, -0.70), (0.22, 0.13, 0.06), BEAK) for s in (-1, 1)),
    ]


def fish(rng: Random) -> list[Primitive]:
    h, w = rng.uniform(0.34, 0.42), rng.uniform(0.18, 0.24)
    return [
        ellipsoid((0.08, 0, 0), (0.62, w, h)),
        box((-0.68, 0, 0), (0.34, 0.035, 0.22), SHADE, turn=(0, 90, 0), taper=(0.75, 0.0)),
        box((0.02, 0, h + 0.04), (0.26, 0.03, 0.13), SHADE, taper=(0.5, 0.0)),
        box((0.0, 0, -h - 0.02), (0.14, 0.03, 0.10), SHADE, turn=(180, 0, 0), taper=(0.5, 0.0)),
        *(ellipsoid((0.44, s * 0.80 * w, 0.10), (0.10, 0.05, 0.10), PAPER) for s in (-1, 1)),
        *(ellipsoid((0.46, s * (0.80 * w + 0.04), 0.10), (0.05, 0.03, 0.05), INK) for s in (-1, 1)),
        *(ellipsoid((0.08, s * (w + 0.03), -0.08), (0.16, 0.03, 0.10), TRIM, turn=(s * 25, 20, 0)) for s in (-1, 1)),
        ellipsoid((0.68, 0, -0.05), (0.06, 0.10, 0.07), COLOURS["pink"]),
    ]


def bear(rng: Random) -> list[Primitive]:
    r, head = rng.uniform(0.36, 0.42), rng.uniform(0.28, 0.32)
    z = 0.42
    return [
        ellipsoid((0, 0, -0.20), (0.9 * r, r, 0.42)),
        ellipsoid((0.20, 0, -0.22), (0.7 * r, 0.72 * r, 0.30), CREAM),
        ellipsoid((0.02, 0, z), head, TRIM),
        *(ellipsoid((0, s * 0.26, z + 0.25), (0.07, 0.12, 0.12), SHADE) for s in (-1, 1)),
        ellipsoid((0.26, 0, z - 0.08), (0.14, 0.14, 0.11), CREAM),
        ellipsoid((0.39, 0, z - 0.04), (0.05, 0.06, 0.05), INK),
        *_eyes(0.26, 0.12, z + 0.08, 0.045),
        *(rod((0.06, s * 0.86 * r, 0.0), (0.34, s * (r + 0.08), -0.22), 0.12, 0.11, TRIM) for s in (-1, 1)),
        *(rod((0.10, s * 0.26, -0.52), (0.48, s * 0.34, -0.54), 0.15, 0.14, TRIM) for s in (-1, 1)),
        *(ellipsoid((0.49, s * 0.34, -0.54), (0.05, 0.11, 0.11), CREAM) for s in (-1, 1)),
    ]


def snail(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.40, 0.48)
    return [
        rod((-0.16, -0.20, 0.10), (-0.16, 0.20, 0.10), r),
        rod((-0.16, -0.26, 0.10), (-0.16, 0.26, 0.10), 0.62 * r, 0.62 * r, SHADE),
        rod((-0.16, -0.31, 0.10), (-0.16, 0.31, 0.10), 0.30 * r, 0.30 * r, TRIM),
        ellipsoid((0.02, 0, -0.42), (0.86, 0.20, 0.13), CREAM),
        rod((0.62, 0, -0.42), (0.78, 0, 0.02), 0.15, 0.13, CREAM),
        ellipsoid((0.80, 0, 0.06), 0.16, CREAM),
        *(rod((0.80, s * 0.08, 0.14), (0.88, s * 0.16, 0.42), 0.03, 0.03, CREAM) for s in (-1, 1)),
        *(ellipsoid((0.88, s * 0.16, 0.44), 0.06, INK) for s in (-1, 1)),
    ]


def bee(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.32, 0.37)
    return [
        ellipsoid((-0.14, 0, 0), (0.52, r, r)),
        rod((-0.14, 0, 0), (-0.02, 0, 0), 1.01 * r, 1.0 * r, INK),
        rod((-0.42, 0, 0), (-0.32, 0, 0), 0.89 * r, 0.96 * r, INK),
        rod((-0.62, 0, 0), (-0.84, 0, -0.02), 0.10, 0.01, INK),
        ellipsoid((0.46, 0, 0.04), 0.25, TRIM),
        *_eyes(0.62, 0.14, 0.12, 0.08),
        *(rod((0.56, s * 0.08, 0.24), (0.74, s * 0.18, 0.46), 0.03, 0.03, INK) for s in (-1, 1)),
        *(ellipsoid((-0.10, s * 0.34, 0.42), (0.20, 0.38, 0.03), GLASS, turn=(s * 35, 0, s * -20.0)) for s in (-1, 1)),
    ]


def horse(rng: Random) -> list[Primitive]:
    girth, neck = rng.uniform(0.22, 0.25), rng.uniform(0.40, 0.48)
    z = neck + 0.10
    return [
        ellipsoid((-0.08, 0, 0.02), (0.52, girth, girth)),
        *_legs((0.26, -0.40), 0.13, -0.1, -0.70, 0.065),
        *(box((x, s * 0.13, -0.72), (0.085, 0.08, 0.05), INK) for x in (0.27, -0.39) for s in (-1, 1)),
        rod((0.30, 0, 0.06), (0.54, 0, z), 0.18, 0.12, TRIM),
        rod((0.50, 0, z + 0.04), (0.86, 0, z - 0.16), 0.14, 0.10, TRIM),
        *(rod((0.48, s * 0.08, z + 0.08), (0.48, s * 0.10, z + 0.26), 0.05, 0.01, SHADE) for s in (-1, 1)),
        box((0.32, 0, 0.5 * z + 0.12), (0.07, 0.04, 0.32), DARK_WOOD, turn=(0, 24, 0)),
        *_eyes(0.62, 0.12, z + 0.04, 0.035),
        rod((-0.56, 0, 0.12), (-0.80, 0, -0.36), 0.08, 0.05, DARK_WOOD),
        box((-0.08, 0, 0.18), (0.20, 0.9 * girth, 0.10), (0.60, 0.14, 0.12)),
    ]


def doll(rng: Random) -> list[Primitive]:
    r = rng.uniform(0.34, 0.42)
    skin = (0.80, 0.60, 0.46)
    return [
        frustum((0, 0, -0.26), r, 0.14, 0.36),
        ellipsoid((0, 0, 0.34), 0.26, skin),
        ellipsoid((-0.06, 0, 0.40), (0.27, 0.29, 0.27), DARK_WOOD),
        *(ellipsoid((-0.06, s * 0.30, 0.30), (0.10, 0.10, 0.16), DARK_WOOD) for s in (-1, 1)),
        *_eyes(0.24, 0.09, 0.36, 0.04),
        ellipsoid((0.24, 0, 0.22), (0.03, 0.07, 0.03), (0.75, 0.16, 0.18)),
        *(rod((0, s * 0.12, 0.04), (0.12, s * 0.46, -0.16), 0.07, 0.06, TRIM) for s in (-1, 1)),
        *(ellipsoid((0.12, s * 0.47, -0.18), 0.08, skin) for s in (-1, 1)),
        *(rod((0, s * 0.13, -0.6), (0, s * 0.13, -0.84), 0.075, 0.075, skin) for s in (-1, 1)),
        *(ellipsoid((0.06, s * 0.13, -0.88), (0.15, 0.09, 0.07), DARK_METAL) for s in (-1, 1)),
        box((0.10, 0, 0.06), (0.06, 0.10, 0.05), WOOD),
    ]
