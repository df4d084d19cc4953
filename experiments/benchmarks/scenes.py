"""Scenes for benchmarks: an object of any size without data files, and a real scene from third-party points."""

from __future__ import annotations

import math
import pathlib

import jax.numpy as jnp
import numpy as np

from im3d_jax.errors import InputError
from splat import SH_C0, Cameras, Gaussians, look_at, pinhole_intrinsics


def _gaussians(means, quats, scales, opacities, colours) -> Gaussians:
    """From linear scales [N, 3], opacities [N] in (0, 1) and colours [N, 3] in [0, 1]."""
    arrays = [np.asarray(a, np.float32) for a in (means, quats, scales, opacities, colours)]
    means, quats, scales, opacities, colours = arrays
    opacities = np.clip(opacities, 1e-6, 1 - 1e-6)
    logits = np.log(opacities / (1 - opacities))
    sh = ((colours - 0.5) / SH_C0)[:, None]
    leaves = means, quats, np.log(np.maximum(scales, 1e-9)), logits, sh
    return Gaussians(*(jnp.asarray(leaf) for leaf in leaves))


def torus(count: int, seed: int = 0) -> Gaussians:
    """`count` gaussians on a bumpy torus inside the unit sphere: an object-like load, most of it in a few tiles."""
    rng = np.random.default_rng(seed)
    u, v = rng.uniform(0, 2 * np.pi, count), rng.uniform(0, 2 * np.pi, count)
    radius, tube = 0.5, 0.22 + 0.04 * np.sin(5 * u)
    ring = radius + tube * np.cos(v)
    means = np.stack([ring * np.cos(u), ring * np.sin(u), tube * np.sin(v)], axis=-1)
    spacing = np.sqrt(4 * np.pi**2 * radius * 0.22 / count)
    scales = spacing * np.exp(rng.normal(0, 0.35, (count, 3))) * 0.8
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=-1, keepdims=True)
    opacities = 1 / (1 + np.exp(-rng.normal(1.5, 1.2, count)))
    colours = np.clip(0.5 + 0.5 * np.sin(7 * means + np.array([0, 2, 4])), 0, 1)
    return _gaussians(means, quats, scales, opacities, colours)


def orbit(views: int, size: int, fov_deg: float = 40.0, distance: float = 2.2, elevation_deg: float = 15.0) -> Cameras:
    """Cameras around the torus, evenly spaced."""
    azimuth, elevation = 2 * np.pi * np.arange(views) / views, math.radians(elevation_deg)
    level = np.cos(elevation)
    eyes = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.full(views, np.sin(elevation))], axis=-1)
    intrinsics = pinhole_intrinsics(math.radians(fov_deg), size, size)
    intrinsics = jnp.broadcast_to(intrinsics.reshape(-1, 3, 3)[:1], (views, 3, 3))
    return Cameras(look_at(jnp.asarray(distance * eyes, jnp.float32)), intrinsics, size, size)


def garden(path: str | pathlib.Path, views: int = 1, seed: int = 0) -> tuple[Gaussians, Cameras]:
    """Points of a real scene (gsplat's test asset, |x| <= 2: 111,785) with random shapes, and its first cameras.

    Raises:
        InputError: The points are not at `path`.
    """
    if not pathlib.Path(path).is_file():
        raise InputError(f"--garden={path}: no such file; expected the garden scene's points (npz)")
    points = np.load(path)
    rng = np.random.default_rng(seed)
    means, colours = points["means3d"], points["colors"] / 255.0
    keep = (np.abs(means) <= 2).all(-1)
    means, colours = means[keep], colours[keep]
    quats = rng.normal(size=(len(means), 4))
    quats /= np.linalg.norm(quats, axis=-1, keepdims=True)
    scales, opacities = rng.uniform(0, 0.02, (len(means), 3)), rng.uniform(0, 1, len(means))
    width, height = int(points["width"]), int(points["height"])
    cameras = Cameras(
        jnp.asarray(points["viewmats"][:views], jnp.float32),
        jnp.asarray(points["Ks"][:views], jnp.float32),
        width,
        height,
    )
    return _gaussians(means, quats, scales, opacities, colours), cameras
