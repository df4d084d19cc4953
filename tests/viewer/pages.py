"""A small asset that has no two sides alike, and its page."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from im3d_jax.output.renders import find_turn, render_views
from im3d_jax.viewer import About, PosedPictures, build_page
from splat import SH_C0, Gaussians, orbit_cameras, render
from splat.io.files import on_host


SIDE, LARGE = 64, 8  # pixels of the views, and how many times larger pictures are compared
METRICS = {
    "against_first_views": {"psnr": 26.7, "ssim": 0.91},
    "against_targets": {"psnr": 28.2, "ssim": 0.92},
    "seconds": 12.0,
}


def asset(count=400, terms=16, seed=0):
    """A ball of coloured gaussians with a long red arm to the side and a green one upwards, world z up."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(count, 3))
    means *= 0.45 / np.linalg.norm(means, axis=1, keepdims=True)
    arm = np.linspace(0.4, 0.9, count // 10)
    means[: len(arm)] = np.stack([arm, 0 * arm, 0 * arm], axis=1)
    means[len(arm) : 2 * len(arm)] = np.stack([0 * arm, 0 * arm, arm], axis=1)
    colors = rng.uniform(0.1, 0.9, (count, 3))
    colors[: len(arm)], colors[len(arm) : 2 * len(arm)] = (0.9, 0.1, 0.1), (0.1, 0.8, 0.2)
    sh = rng.normal(scale=0.08, size=(count, terms, 3))
    sh[:, 0] = (colors - 0.5) / SH_C0
    leaves = (
        means,
        rng.normal(size=(count, 4)),
        rng.uniform(math.log(0.01), math.log(0.08), (count, 3)),
        rng.uniform(-1.0, 4.0, count),
        sh,
    )
    return Gaussians(*(jnp.asarray(leaf, jnp.float32) for leaf in leaves))


def cameras(views=8, side=SIDE):
    """An orbit, of which the principal point is a little off the centre."""
    made = orbit_cameras(0.4, views=views, width=side, height=side)
    shift = jnp.asarray([[0.0, 0.0, 0.03 * side], [0.0, 0.0, -0.02 * side], [0.0, 0.0, 0.0]])
    return dataclasses.replace(made, intrinsics=made.intrinsics + shift[None])


def page(gaussians, orbit, renders, **more):
    """Its page with views that are darker than the asset, and darker still after refinement."""
    given = renders * np.array([0.8, 0.8, 0.8, 1.0], np.float32)
    refined = renders * np.array([0.6, 0.6, 0.6, 1.0], np.float32)
    refined[3] *= np.array([0.5, 0.5, 0.5, 1.0], np.float32)
    pictures = PosedPictures(orbit, given, renders, find_turn(orbit), refined)
    about = more.pop("about", About("A ball with two arms", "Made from a prompt", [("Seed", "7")]))
    return build_page(on_host(gaussians), about, pictures=pictures, metrics=METRICS, **more)


def rendered(gaussians, orbit):
    """Straight-alpha renders."""
    return render_views(gaussians, orbit)


def enlarged(gaussians, orbit, view):
    """[H, W, 4] premultiplied render of one camera of the orbit in a picture `LARGE` times its size."""
    scale = jnp.asarray([LARGE, LARGE, 1.0])[:, None]
    camera = orbit[view : view + 1]
    camera = camera.replace(
        intrinsics=camera.intrinsics * scale[None], width=LARGE * camera.width, height=LARGE * camera.height
    )
    made = render(gaussians, camera, background=0.0)
    return np.concatenate([np.asarray(made.rgb)[0], np.asarray(made.alpha)[0, ..., None]], axis=-1)
