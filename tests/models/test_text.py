"""The text encoder reads words up to the padding, in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.models import TextConfig, TextEncoder


MODULE = TextEncoder(TextConfig(vocabulary=12, length=6, width=16, layers=2, head_dim=8))


@pytest.fixture(scope="module")
def encode():
    params = MODULE.init(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), params)
    return jax.jit(lambda tokens: MODULE.apply({"params": params}, tokens))


def test_padding_is_masked_and_not_read(encode):
    tokens = jnp.asarray([[1, 4, 5, 0, 0, 0], [1, 4, 5, 6, 7, 8]])
    context, mask = encode(tokens)
    assert context.shape == (2, 6, 16) and mask.dtype == bool
    np.testing.assert_array_equal(mask, tokens != 0)
    short, _ = encode(tokens[:1, :3])
    np.testing.assert_allclose(context[0, :3], short[0], atol=1e-5)


def test_words_and_their_order_matter(encode):
    context, _ = encode(jnp.asarray([[1, 4, 5, 0, 0, 0], [1, 5, 4, 0, 0, 0], [1, 4, 6, 0, 0, 0]]))
    assert float(jnp.abs(context[0, 0] - context[1, 0]).max()) > 1e-3
    assert float(jnp.abs(context[0, 0] - context[2, 0]).max()) > 1e-3


def test_rows_do_not_see_each_other(encode):
    rows = jnp.asarray([[1, 4, 5, 0, 0, 0], [1, 7, 8, 9, 0, 0]])
    np.testing.assert_allclose(encode(rows)[0][0], encode(rows[:1])[0][0], atol=1e-5)
