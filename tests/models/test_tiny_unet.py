"""The video UNet: temporal layers that start as nothing, conditions that act where they should."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.models import TinyUNet, is_temporal_parameter
from im3d_jax.models.tiny_unet import orbit_position
from im3d_jax.weights import flatten, unflatten
from tests import tiny


CONFIG = dataclasses.replace(tiny.UNET, first_frame_attention=(False, True), joint_attention=(False, True))
MODULE = TinyUNet(CONFIG)
# Compiling takes longer than anything else here.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def inputs(seed=0, batch=2):
    """(x, time, context, mask) and {condition, has_image}, the latter without a picture."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    mask = jnp.arange(5)[None] < jnp.asarray([[3], [5]])[:batch]
    given = (draw(batch, 4, 8, 8, 4), jnp.asarray([0.3, 0.9])[:batch], draw(batch, 5, 16), mask)
    return given, {"condition": draw(batch, 8, 8, 4), "has_image": jnp.zeros(batch)}


def random_parameters(module):
    """Parameters that are nowhere at their initial values."""
    given, condition = inputs()
    shapes = jax.eval_shape(module.init, jax.random.key(0), *given, **condition)["params"]
    return jax.tree.map(jnp.asarray, tiny.draw_parameters(shapes, seed=1))


@pytest.fixture(scope="module")
def moved():
    return random_parameters(MODULE)


@pytest.fixture(scope="module")
def fresh(moved):
    """Temporal layers as initialised, spatial ones as if trained."""
    given, condition = inputs()
    start = flatten(quick(MODULE.init)(jax.random.key(0), *given, **condition)["params"])
    flat = {name: start[name] if is_temporal_parameter(name) else leaf for name, leaf in flatten(moved).items()}
    return unflatten(flat, moved)


@pytest.fixture(scope="module")
def video():
    return quick(lambda params, given, condition: MODULE.apply({"params": params}, *given, **condition))


def test_temporal_layers_are_the_identity_at_initialisation(fresh, moved, video):
    given, condition = inputs()
    condition["has_image"] = jnp.ones(2)
    x, time, context, mask = given
    frames = (x.reshape(8, 1, 8, 8, 4), *(jnp.repeat(a, 4, axis=0) for a in (time, context, mask)))
    image = quick(lambda params: MODULE.apply({"params": params}, *frames, temporal=False))
    wanted = image(fresh).reshape(x.shape)
    assert float(jnp.abs(wanted).mean()) > 0.1
    np.testing.assert_allclose(video(fresh, given, condition), wanted, atol=2e-4)
    assert float(jnp.abs(video(moved, given, condition) - wanted).mean()) > 0.05


def test_names_of_temporal_parameters():
    """The single-frame network has exactly the parameters that are not temporal."""
    given, condition = inputs()
    init = lambda **kw: jax.eval_shape(lambda: MODULE.init(jax.random.key(0), *given, **kw))["params"]  # noqa: E731
    whole, spatial = flatten(init(**condition)), flatten(init(temporal=False))
    assert set(spatial) == {name for name in whole if not is_temporal_parameter(name)}
    assert any("conv_in_condition" in name for name in whole)
    assert sum("temporal_" in name for name in whole) > 20


@pytest.mark.parametrize("temporal", [True, False])
def test_gradients_reach_the_right_parameters(moved, temporal):
    given, condition = inputs()
    condition["has_image"] = jnp.ones(2)

    def loss(params):
        y = MODULE.apply({"params": params}, *given, **condition, temporal=temporal)
        return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    gradients = flatten(quick(jax.grad(loss))(moved))
    for name, gradient in gradients.items():
        largest = float(jnp.abs(gradient).max())
        if is_temporal_parameter(name) and not temporal:
            assert largest == 0.0, name
        else:
            assert math.isfinite(largest) and largest > 0.0, name


def test_the_picture_acts_only_where_it_is_given(moved, video):
    given, condition = inputs()
    other = {**condition, "condition": condition["condition"] + 1.0}
    np.testing.assert_array_equal(video(moved, given, condition), video(moved, given, other))
    first = jnp.asarray([1.0, 0.0])
    a, b = (video(moved, given, {**c, "has_image": first}) for c in (condition, other))
    assert all(float(jnp.abs(a[0, t] - b[0, t]).max()) > 1e-3 for t in range(4))
    np.testing.assert_array_equal(a[1], b[1])
    none = video(moved, given, condition)
    assert float(jnp.abs(a[0] - none[0]).max()) > 1e-3


def test_the_first_frame_may_be_one_of_several(moved, video):
    """Alone it is what a single picture is; another frame adds to it, and values of frames that are not given count
    for nothing."""
    given, condition = inputs()
    rng = np.random.default_rng(3)
    frames = jnp.asarray(rng.normal(size=given[0].shape), jnp.float32).at[:, 0].set(condition["condition"])
    alone = jnp.asarray([[1.0, 0.0, 0.0, 0.0]] * 2)
    one = video(moved, given, {**condition, "has_image": jnp.ones(2)})
    np.testing.assert_allclose(video(moved, given, {"condition": frames, "has_image": alone}), one, atol=2e-5)
    two = video(moved, given, {"condition": frames, "has_image": alone.at[0, 2].set(1.0)})
    assert all(float(jnp.abs(two[0, t] - one[0, t]).max()) > 1e-3 for t in range(4))
    np.testing.assert_allclose(two[1], one[1], atol=2e-5)


def test_padding_of_the_prompt_is_not_read(moved, video):
    (x, time, context, mask), condition = inputs()
    changed = jnp.where(mask[..., None], context, 7.0)
    a, b = (video(moved, (x, time, c, mask), condition) for c in (context, changed))
    np.testing.assert_array_equal(a, b)
    c = video(moved, (x, time, context.at[:, 0].add(1.0), mask), condition)
    assert float(jnp.abs(a - c).max()) > 1e-3


def test_time_is_read_per_sample(moved, video):
    (x, time, context, mask), condition = inputs()
    a = video(moved, (x, time, context, mask), condition)
    b = video(moved, (x, time.at[1].set(0.5), context, mask), condition)
    np.testing.assert_array_equal(a[0], b[0])
    assert float(jnp.abs(a[1] - b[1]).max()) > 1e-3


@pytest.mark.parametrize("cyclic", [True, False])
def test_rolling_the_frames_of_a_ring(cyclic):
    """Without positions and without a first frame the network knows only who is next to whom."""
    config = dataclasses.replace(
        CONFIG,
        first_frame_attention=(False, False),
        temporal_position=False,
        cyclic=cyclic,
    )
    module = TinyUNet(config)
    params = random_parameters(module)
    (x, *rest), condition = inputs(batch=1)
    apply = quick(lambda x: module.apply({"params": params}, x, *rest, **condition))
    rolled, wanted = apply(jnp.roll(x, 1, axis=1)), jnp.roll(apply(x), 1, axis=1)
    if cyclic:
        np.testing.assert_allclose(rolled, wanted, atol=2e-4)
    else:
        assert float(jnp.abs(rolled - wanted).max()) > 0.01


def test_orbit_position():
    position = orbit_position(16, 4, 6, cyclic=True)
    assert position.shape == (16, 4, 6, 24)
    angle = 2 * math.pi * 5 / 16
    wanted = [f(h * angle) for f in (math.cos, math.sin) for h in (1, 2, 4, 8)]
    np.testing.assert_allclose(position[5, 0, 0, :8], wanted, atol=1e-5)
    tokens = np.asarray(position).reshape(-1, 24)
    distances = np.linalg.norm(tokens[:, None] - tokens[None], axis=-1) + 10 * np.eye(len(tokens))
    assert distances.min() > 0.05
    # On a ring the last frame is as near to the first as the second is; on a line it is not.
    ring, line = (orbit_position(16, 1, 1, cyclic)[:, 0, 0, :8] for cyclic in (True, False))
    steps = [float(jnp.linalg.norm(a[15] - a[0]) / jnp.linalg.norm(a[1] - a[0])) for a in (ring, line)]
    assert steps[0] == pytest.approx(1, abs=1e-4) and steps[1] > 1.2


def test_sizes_that_cannot_be_halved():
    given, condition = inputs()
    x = given[0][:, :, :7]
    with pytest.raises(ValueError, match="7x8.*multiples of 2"):
        jax.eval_shape(lambda: MODULE.init(jax.random.key(0), x, *given[1:], **condition))
