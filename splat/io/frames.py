"""The one place where gaussians are turned from one coordinate frame into another.

In memory, and in PLY and .splat files (which declare no frame), gaussians stay in the world of the asset or
capture. SPZ and glTF declare theirs: x right, y up, z towards the viewer. `to_y_up` says how a world gets
there, by the direction that is up in it:

    up="z"    (x, y, z) -> (x, z, -y)    assets of this project, Blender and most captures of nerfstudio
    up="y"    as it is                   worlds of OpenGL and glTF
    up="-y"   (x, y, z) -> (x, -y, -z)   worlds of COLMAP and of OpenCV cameras
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from splat.io.files import Rows, unit_quaternions


_TO_Y_UP = {
    "z": [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
    "y": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "-y": [[1, 0, 0], [0, -1, 0], [0, 0, -1]],
}


def to_y_up(up: str) -> np.ndarray:
    """Rotation [3, 3] from a world whose up direction is `up` to the frame of SPZ and glTF.

    Raises:
      ValueError: `up` is not "z", "y" or "-y".
    """
    if up not in _TO_Y_UP:
        raise ValueError(f"up is {up!r}; expected one of {', '.join(map(repr, _TO_Y_UP))}")
    return np.array(_TO_Y_UP[up], np.float64)


def transform(
    gaussians: Rows, rotation: np.ndarray, scale: float = 1.0, translation: Sequence[float] = (0, 0, 0)
) -> Rows:
    """Moves gaussians as a whole: x -> scale * rotation @ x + translation.

    Args:
      gaussians: N gaussians.
      rotation: [3, 3] orthogonal, of determinant one.
      scale: above zero.
      translation: [3].

    Returns:
      Gaussians that look the same from a camera moved alike: means, quaternions (of length one), scales and
      spherical harmonics are all turned.
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


def rotate_harmonics(sh: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Coefficients of the turned colours: colour'(rotation @ d) = colour(d) for every direction d.

    Each degree's functions are closed under rotation, so the matrix between the coefficients of a degree is
    fixed by the values at a few directions: it is solved for, in float64.

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
        turned[:, rows] = np.einsum("ij,njc->nic", matrix, sh[:, rows].astype(np.float64))
    return turned


def harmonics(directions: np.ndarray, degree: int) -> np.ndarray:
    """Real spherical harmonics with the Condon-Shortley phase, by the recurrences of the Legendre functions.

    Args:
      directions: [D, 3] unit vectors.
      degree: highest degree.

    Returns:
      [D, (degree + 1)^2] float64; the same functions as `splat.harmonics.sh_basis`.
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


def _quaternion(rotation: np.ndarray) -> np.ndarray:
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


def _multiply(first: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Hamilton products of one quaternion [4] with [N, 4], wxyz."""
    a, b, c, d = first
    left = np.array([[a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a]])
    return others @ left.T
