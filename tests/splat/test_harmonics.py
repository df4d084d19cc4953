"""Spherical harmonics: orthonormal on the sphere, and the signs and order that splat files use."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splat.harmonics import sh_basis, sh_colors


_path = pathlib.Path(__file__).with_name("reference.py")
_spec = importlib.util.spec_from_file_location("splat_reference", _path)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)


def directions(n, seed=0):
    d = np.random.default_rng(seed).normal(size=(n, 3))
    return d / np.linalg.norm(d, axis=-1, keepdims=True)


def test_orthonormal_to_degree_four():
    """Exact quadrature: Gauss-Legendre in z times equal steps in azimuth holds up to degree 8."""
    z, weight = np.polynomial.legendre.leggauss(8)
    azimuth = np.arange(16) * 2 * np.pi / 16
    ring = np.sqrt(1 - z**2)
    d = np.stack(
        [ring[:, None] * np.cos(azimuth), ring[:, None] * np.sin(azimuth), np.broadcast_to(z[:, None], (8, 16))], -1
    )
    basis = np.asarray(sh_basis(jnp.asarray(d, jnp.float32), 4), np.float64).reshape(-1, 25)
    gram = basis.T @ (np.repeat(weight, 16)[:, None] * 2 * np.pi / 16 * basis)
    np.testing.assert_allclose(gram, np.eye(25), atol=3e-6)


def test_degrees_zero_to_three_as_in_the_original_code():
    d = directions(20)
    expected = jax.vmap(lambda v: reference.harmonics(v, 3))(jnp.asarray(d, jnp.float32))
    np.testing.assert_allclose(sh_basis(jnp.asarray(d, jnp.float32), 3), expected, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_parity_with_gsplat(degree):
    torch = pytest.importorskip("torch")
    gsplat = pytest.importorskip("gsplat.cuda._torch_impl")
    d, sh = directions(12, 1), np.random.default_rng(2).normal(size=(12, (degree + 1) ** 2, 3))
    theirs = gsplat._spherical_harmonics(degree, torch.tensor(d), torch.tensor(sh)).numpy()
    ours = sh_colors(jnp.asarray(sh, jnp.float32), jnp.asarray(d, jnp.float32)[None], degree)[0]
    np.testing.assert_allclose(ours, np.maximum(theirs + 0.5, 0), atol=5e-6)


def test_colours_never_fall_below_zero_and_degree_is_checked():
    assert not np.any(sh_colors(jnp.full((2, 1, 3), -9.0), None, 0))
    with pytest.raises(ValueError, match="degree is 5"):
        sh_basis(jnp.ones((1, 3)), 5)
