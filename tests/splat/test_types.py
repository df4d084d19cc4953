"""Annotated shapes: wrong ones are refused where the tests' import hook checks them, and transformations still work."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jaxtyping import TypeCheckError

import splat
from splat.harmonics import sh_colors
from splat.io.files import Rows
from splat.math import quaternion_to_rotation
from splat.strategies import DefaultStrategy, McmcStrategy


N, SIZE = 6, 8
CAMERAS = splat.orbit_cameras(0.1, views=2, width=SIZE, height=SIZE)


def scene():
    rng = np.random.default_rng(0)
    shapes = (N, 3), (N, 4), (N, 3), (N,), (N, 1, 3)
    return splat.Gaussians(*(np.float32(rng.normal(size=shape)) for shape in shapes))


def refuse(call, message):
    with pytest.raises(TypeCheckError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("means", (N, 2)), ("quats", (N + 1, 4)), ("opacity_logits", (N, 1)), ("sh", (N, 3)), ("log_scales", (2, N, 3))],
)
@pytest.mark.parametrize("make", [np.zeros, jnp.zeros])
def test_gaussians_of_wrong_shapes_are_refused(name, shape, make):
    refuse(lambda: scene().replace(**{name: make(shape, np.float32)}), f"Gaussians.__init__(.|\n)*'{name}'|'sh'")


def test_arguments_of_wrong_shapes_and_types_are_refused():
    draw = partial(splat.render, scene(), CAMERAS, capacity=256)
    refuse(lambda: draw(mean2d_offset=jnp.zeros((2, N + 1, 2)), active=jnp.ones(N, bool)), "mean2d_offset")
    refuse(lambda: draw(active=jnp.ones(N)), "active")
    refuse(lambda: draw(background=jnp.zeros(4)), "background")
    refuse(lambda: draw(options={"normals": True}), "options")
    refuse(lambda: splat.look_at(jnp.zeros((5, 2))), "eye")
    refuse(lambda: splat.from_opengl(np.eye(3)), "camera_to_world")
    refuse(lambda: sh_colors(jnp.zeros((N, 4, 3)), jnp.zeros((2, N + 1, 3)), 1), "directions")
    refuse(lambda: Rows(*jax.tree.leaves(scene())[:4], np.zeros((N, 3), np.float32)), "'sh'")
    short = jnp.ones(N - 1, bool)
    refuse(lambda: McmcStrategy().perturb(jax.random.key(0), scene(), "fast"), "learning_rate")
    refuse(lambda: McmcStrategy().refine(jnp.zeros(3), scene(), short), "key")
    statistics = DefaultStrategy().init_statistics(N)
    refuse(lambda: DefaultStrategy().accumulate(statistics, jnp.zeros((2, N, 2)), short[None], 8, 8), "visible")


def test_results_of_wrong_shapes_are_refused(monkeypatch):
    monkeypatch.setattr("splat.math.safe_normalize", lambda vectors: vectors[:1])
    refuse(lambda: quaternion_to_rotation(jnp.ones((2, 4))), "return value")


def test_transformations_rebuild_the_trees():
    gaussians = jax.tree.map(jnp.asarray, scene())
    for leaf in (None, object(), 0, "name", PartitionSpec("data"), jax.ShapeDtypeStruct((3,), bool)):
        made = jax.tree.map(lambda _, leaf=leaf: leaf, gaussians)
        assert isinstance(made, splat.Gaussians) and made.sh is leaf
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), gaussians)
    assert len(two) == N and jax.vmap(lambda g: g.opacities)(two).shape == (2, N)
    axes = splat.Gaussians(0, 0, 0, 0, 0)
    assert jax.vmap(lambda g: g.sh, in_axes=(axes,))(two).shape == (2, N, 1, 3)
    drawn = jax.eval_shape(partial(splat.render, capacity=256), gaussians, CAMERAS)
    assert isinstance(drawn, splat.Rendering) and drawn.rgb.shape == (2, SIZE, SIZE, 3)
    slopes = jax.grad(lambda g: jnp.sum(g.scales))(gaussians)
    assert isinstance(slopes, splat.Gaussians) and slopes.sh.shape == gaussians.sh.shape


def test_zero_tangents_of_integers_are_no_wrong_arrays():
    strategy, active = DefaultStrategy(), jnp.arange(N) < 4
    gaussians = jax.tree.map(jnp.asarray, scene())
    out, pull = jax.vjp(lambda g: strategy.refine(jax.random.key(0), g, active, strategy.init_statistics(N)), gaussians)
    zero = np.zeros(N, jax.dtypes.float0)
    (back,) = pull(out.replace(gaussians=jax.tree.map(jnp.ones_like, gaussians), active=zero, fresh=zero))
    np.testing.assert_array_equal(back.means, np.ones((N, 3)))


def test_the_fixture_unchecked_leaves_shapes_to_the_functions(unchecked):
    assert scene().replace(means=jnp.zeros((N, 2))).means.shape == (N, 2)
    with pytest.raises(ValueError, match="active has shape"):
        splat.render(scene(), CAMERAS, active=jnp.ones(N - 1, bool))


def test_nothing_is_checked_outside_of_tests():
    code = (
        "import sys, splat, numpy as np; "
        "splat.Gaussians(*[np.zeros(1)] * 5); "
        "assert not hasattr(splat.render, '__wrapped__') and 'beartype' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
