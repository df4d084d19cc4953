"""The converter between predictions: definitions, round trips, the ends of time."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.diffusion import Cosine, Karras, ScaledLinear, add_noise, convert_prediction, prediction_target


KINDS = ("x0", "eps", "v", "edm_v")
PROCESSES = [Cosine(), Cosine(shift=-1.0), ScaledLinear(), Karras(sigma_max=80.0)]


@pytest.fixture(scope="module")
def pair():
    return np.random.default_rng(0).normal(size=(2, 9, 4))


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_every_pair_of_kinds_at_many_times(pair, process):
    """In float64, each prediction made from the true sample and noise converts into each other one."""
    with jax.enable_x64(True):
        x0, noise = map(jnp.asarray, pair)
        t = jnp.linspace(0.02, 0.98, 9)
        x_t = add_noise(x0, noise, t, process)
        truth = {kind: prediction_target(x0, noise, t, process, kind) for kind in KINDS}
        for source, target in itertools.product(KINDS, KINDS):
            found = convert_prediction(truth[source], x_t, t, process, source, target)
            np.testing.assert_allclose(found, truth[target], atol=1e-9, err_msg=f"{source} -> {target}")
            again = convert_prediction(found, x_t, t, process, target, source)
            np.testing.assert_allclose(again, truth[source], atol=1e-9, err_msg=f"{source} <-> {target}")


@pytest.mark.parametrize("process", [Cosine(), ScaledLinear()], ids=repr)
@pytest.mark.parametrize("kind", ["v", "edm_v"])
def test_zero_terminal_snr(pair, process, kind):
    """At T the sample is the noise, and x̂ = -v exactly, also inside jit."""
    v, x_t = (jnp.asarray(a, jnp.float32) for a in pair)
    np.testing.assert_array_equal(convert_prediction(v, x_t, 1.0, process, kind, "x0"), -v)
    np.testing.assert_array_equal(convert_prediction(v, x_t, 1.0, process, kind, "eps"), x_t)
    traced = jax.jit(lambda t: convert_prediction(v, x_t, t, process, kind, "x0"))(1.0)
    np.testing.assert_array_equal(traced, -v)
    np.testing.assert_array_equal(convert_prediction(-v, x_t, 1.0, process, "x0", kind), v)


def test_v_by_its_definition(pair):
    x0, noise = (jnp.asarray(a, jnp.float32) for a in pair)
    angle = 0.3 * np.pi / 2
    v = prediction_target(x0, noise, 0.3, Cosine(), "v")
    np.testing.assert_allclose(v, np.cos(angle) * noise - np.sin(angle) * x0, atol=1e-6)
    np.testing.assert_array_equal(prediction_target(x0, noise, 0.3, Cosine(), "x0"), x0)
    np.testing.assert_array_equal(prediction_target(x0, noise, 0.3, Cosine(), "eps"), noise)


def test_edm_preconditioning_of_svd(pair):
    """c_skip x + c_out F with the published factors."""
    output, x_t = (jnp.asarray(a, jnp.float32) for a in pair)
    process = Karras()
    for t in (0.0, 0.3, 0.6):
        sigma = float(process.sigma(t))
        expected = x_t / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5
        found = convert_prediction(output, x_t, t, process, "edm_v", "x0")
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # For a variance-preserving process the two kinds of v are one.
    np.testing.assert_allclose(convert_prediction(output, x_t, 0.4, Cosine(), "edm_v", "v"), output, atol=1e-6)


def test_eps_without_signal_is_an_error(pair):
    value, x_t = (jnp.asarray(a, jnp.float32) for a in pair)
    with pytest.raises(ValueError, match=r"eps at t=1.0: alpha is 0"):
        convert_prediction(value, x_t, 1.0, Cosine(), "eps", "x0")
    with pytest.raises(ValueError, match="alpha is 0"):
        convert_prediction(value, x_t, np.linspace(0.2, 1.0, 9), ScaledLinear(), "eps", "v")
    with pytest.raises(ValueError, match="alpha is 0"):
        jax.jit(lambda y: convert_prediction(y, x_t, 1.0, Cosine(), "eps", "x0"))(value)
    with pytest.raises(ValueError, match="sigma is 0"):
        convert_prediction(value, x_t, 0.0, Cosine(), "x0", "v")
    # Stable Diffusion's own table keeps some signal at T, and unconverted predictions are always fine.
    assert np.isfinite(convert_prediction(value, x_t, 1.0, ScaledLinear(zero_terminal_snr=False), "eps", "x0")).all()
    np.testing.assert_array_equal(convert_prediction(value, x_t, 1.0, Cosine(), "eps", "eps"), value)


def test_dtype_and_wrong_input(pair, unchecked):
    value, x_t = (jnp.asarray(a, jnp.bfloat16) for a in pair)
    for target in KINDS:
        assert convert_prediction(value, x_t, 0.5, Cosine(), "v", target).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="'noise': expected one of x0, eps, v, edm_v"):
        convert_prediction(value, x_t, 0.5, Cosine(), "noise", "x0")
    with pytest.raises(ValueError, match="does not match samples"):
        convert_prediction(value[:3], x_t, 0.5, Cosine(), "v", "x0")
