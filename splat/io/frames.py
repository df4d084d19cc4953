"""Rotation of gaussians between coordinate frames.

In memory, and in PLY and .splat files (which declare no frame), gaussians stay in the world of the asset or capture.
SPZ and glTF declare their frame: x right, y up, z towards the viewer. `to_y_up` rotates a world into it, by the
direction that is up in that world:

    up="z"    (x, y, z) -> (x, z, -y)    assets of this project, Blender and most captures of nerfstudio
    up="y"    unchanged                  worlds of OpenGL and glTF
    up="-y"   (x, y, z) -> (x, -y, -z)   worlds of COLMAP and of OpenCV cameras
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from splat.io.files import Rows, unit_quaternions


_ROWS = 1 << 16
_TO_Y_UP = {
    "z": [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
    "y": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "-y": [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
}


def to_y_up(up: str) -> Float[np.ndarray, "3 3"]:
    """Rotation from a world to the frame of SPZ and glTF.

    Args:
        up: Direction that is up in the world: "z", "y" or "-y".

    Returns:
        [3, 3].

    Raises:
        ValueError: `up` is another text.
    """
    if up not in _TO_Y_UP:
        raise ValueError(f"up is {up!r}; expected one of {', '.join(map(repr, _TO_Y_UP))}")
    return np.array(_TO_Y_UP[up], np.float64)


def transform(
    gaussians: Rows,
    rotation: Float[np.ndarray, "3 3"],
    scale: float = 1.0,
    translation: Sequence[float | int] = (0, 0, 0),
) -> Rows:
    """Moves gaussians by a similarity: x -> scale * rotation @ x + translation.

    Args:
        gaussians: N gaussians.
        rotation: [3, 3] orthogonal, of determinant one.
        scale: Above 0.
        translation: [3] in units of the result.

    Returns:
        Gaussians with transformed means, quaternions (of length one), scales and spherical harmonics: they look the
        same from a camera that moves with them.
    """
    shift = np.asarray(translation, np.float64)
    identity = bool((rotation == np.eye(3)).all())
    means = gaussians.means.astype(np.float64)
    return dataclasses.replace(
        gaussians,
        means=scale * (means if identity else means @ rotation.T) + shift[None],
        quats=_multiply(_quaternion(rotation), unit_quaternions(gaussians.quats)),
        log_scales=gaussians.log_scales.astype(np.float64) + math.log(scale),
        sh=gaussians.sh if identity else rotate_harmonics(gaussians.sh, rotation),
    )


def rotate_harmonics(sh: Float[np.ndarray, "N K 3"], rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "N K 3"]:
    """Coefficients of the rotated colours: colour'(rotation @ d) = colour(d) for every direction d.

    The functions of one degree are closed under rotation, so the values at a few directions determine the matrix
    between the coefficients of that degree. It is solved in float64.

    Args:
        sh: [N, K, 3], degree 0 to 4.
        rotation: [3, 3] orthogonal, of determinant one.

    Returns:
        [N, K, 3] float32.
    """
    degree = math.isqrt(sh.shape[1]) - 1
    turned = np.array(sh, np.float32)
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before, after = harmonics(directions, degree), harmonics(directions @ rotation.T, degree)
    for band in range(1, degree + 1):
        rows = slice(band * band, (band + 1) ** 2)
        matrix = np.linalg.lstsq(after[:, rows], before[:, rows], rcond=None)[0]
        matrix[np.abs(matrix) < 1e-12] = 0.0  # a turn by 90 degrees moves coefficients and must not blur them
        for start in range(0, len(sh), _ROWS):  # in float64, which would take the memory of two scenes
            part = slice(start, start + _ROWS)
            turned[part, rows] = np.einsum("ij,njc->nic", matrix, sh[part, rows].astype(np.float64))
    return turned


def harmonics(directions: Float[np.ndarray, "D 3"], degree: int) -> Float[np.ndarray, "D K"]:
    """Real spherical harmonics with the Condon-Shortley phase, by the recurrences of the Legendre functions.

    Args:
        directions: [D, 3] unit vectors.
        degree: Highest degree, from 0.

    Returns:
        [D, K] float64, K = (degree + 1)^2; the same functions as `splat.harmonics.sh_basis`.
    """
    x, y, z = directions.astype(np.float64).T
    basis = np.zeros((len(directions), (degree + 1) ** 2))
    for m in range(degree + 1):
        circle = (x + 1j * y) ** m
        # Legendre functions without their factor sin^m, which `circle` brings.
        below, legendre = np.zeros_like(z), np.full_like(z, math.prod(range(1, 2 * m, 2)))
        for band in range(m, degree + 1):
            norm = (2 * band + 1) / (4 * math.pi) * math.factorial(band - m) / math.factorial(band + m)
            values = (-1) ** m * math.sqrt(norm * (2 if m else 1)) * legendre
            middle = band * (band + 1)
            basis[:, middle + m] = values * circle.real
            if m:
                basis[:, middle - m] = values * circle.imag
            following = ((2 * band + 1) * z * legendre - (band + m) * below) / (band + 1 - m)
            below, legendre = legendre, following
    return basis


def _quaternion(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "4"]:
    """Unit quaternion wxyz of a rotation matrix: eigenvector of a symmetric matrix (Bar-Itzhack 2000)."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    matrix = np.array(
        [
            [a + e + i, h - f, c - g, d - b],
            [h - f, a - e - i, b + d, c + g],
            [c - g, b + d, e - a - i, f + h],
            [d - b, c + g, f + h, i - a - e],
        ]
    )
    quat = np.linalg.eigh(matrix)[1][:, -1]
    quat[np.abs(quat) < 1e-15] = 0.0
    return quat if quat[np.abs(quat).argmax()] > 0 else -quat


def _multiply(first: Float[np.ndarray, "4"], others: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Hamilton products of one quaternion with others, wxyz."""
    a, b, c, d = first
    left = np.array([[a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a]])
    return others @ left.T
