"""Which cameras can be used: bounds between which the projection and its gradients stay inside float32."""

import numpy as np


# Of a pose's or a point's coordinates: far beyond any scene, and float32 holds its square.
LARGEST = 1e15
# Focal length over the side of the picture: all but a half-circle of view, and sharper than any telescope.
LEAST_FOCAL, MOST_FOCAL = 1e-2, 1e4
# Distance of the centre from the picture's first pixel over its side: the picture may be a small part of a large one.
MOST_CENTRE = 1e3
MOST_DISTORTION = 1e6


def lens_problem(intrinsics: np.ndarray, distortion: np.ndarray, width: float, height: float) -> str | None:
    """What is wrong with a camera's lens, in words for the user; None for nothing.

    Args:
        intrinsics: [3, 3] pixels.
        distortion: [n] coefficients, of any model.
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
    """
    sides = np.array([width, height])
    focal, centre = np.diagonal(intrinsics)[:2], intrinsics[:2, 2]
    # NaN compares false.
    possible = (focal >= LEAST_FOCAL * sides) & (focal <= MOST_FOCAL * sides)
    if not possible.all():
        return (
            f"focal length {focal[0]:g}, {focal[1]:g} pixels for {width:g}x{height:g}; expected {LEAST_FOCAL:g} to "
            f"{MOST_FOCAL:g} times the side"
        )
    if not (np.abs(centre) <= MOST_CENTRE * sides).all():
        return (
            f"centre at {centre[0]:g}, {centre[1]:g} pixels for {width:g}x{height:g}; expected at most "
            f"{MOST_CENTRE:g} times the side"
        )
    if not (np.abs(distortion) <= MOST_DISTORTION).all():
        return f"distortion of {np.abs(distortion).max():g}; expected coefficients of at most {MOST_DISTORTION:g}"
    return None
