"""A run folder written by hand: no model, no fit."""

import json

import jax.numpy as jnp
import numpy as np

import splat
from im3d_jax.data.camera_files import encode_cameras
from im3d_jax.images.files import encode_png
from splat import SH_C0, Gaussians, orbit_cameras


VIEWS, SIDE = 4, 24


def gaussians(count=60, terms=1):
    """A ball of colours with finite numbers."""
    rng = np.random.default_rng(0)
    leaves = (
        0.4 * rng.normal(size=(count, 3)),
        rng.normal(size=(count, 4)),
        rng.uniform(-3.5, -1.5, (count, 3)),
        rng.uniform(-1, 3, count),
        rng.normal(scale=0.3 / SH_C0, size=(count, terms, 3)),
    )
    return Gaussians(*(jnp.asarray(leaf, jnp.float32) for leaf in leaves))


def write_run(folder, rounds=1):
    """asset.ply, views and one refinement, cameras, run.json and metrics.json."""
    folder.mkdir(parents=True)
    splat.save(folder / "asset.ply", gaussians())
    names = [f"views/{index:02d}.png" for index in range(VIEWS)]
    cameras = orbit_cameras(0.4, views=VIEWS, width=SIDE, height=SIDE)
    more = {"family": "bundle", "orbit_direction": "ccw"}
    (folder / "cameras.json").write_bytes(encode_cameras(cameras, names, 0.4, **more))
    for part, shade in (("views", 0.8), *((f"views_round{number}", 0.4) for number in range(1, rounds + 1))):
        (folder / part).mkdir()
        image = np.zeros((SIDE, SIDE, 4), np.float32)
        image[6:18, 8:16] = shade, 0.2, 0.1, 1.0
        for index in range(VIEWS):
            (folder / part / f"{index:02d}.png").write_bytes(encode_png(np.roll(image, index, axis=1)))
    request = {"prompt": "a red mug", "seed": 5, "quality": "draft", "rounds": rounds, "image": None}
    run = {"settings": {"what": "asset", "request": request}, "sha256": "0" * 64, "seed": 5, "model": "tiny"}
    (folder / "run.json").write_text(json.dumps(run))
    metrics = {"against_first_views": {"psnr": 25.5, "ssim": 0.9}, "seconds": 3.0, "gaussians": 60}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder
