"""CLIP and T5 without a reference: what may depend on what, bfloat16, and inputs that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from im3d_jax.models import clip, t5
from im3d_jax.weights.encoders import encoder_network, encoder_shapes


TEXT = clip.CLIPTextConfig(vocabulary=99, length=8, width=24, layers=2, heads=2, hidden=40, projection=10, end_token=98)
VISION = clip.CLIPVisionConfig(image_size=14, patch=7, width=24, layers=2, heads=2, hidden=40, projection=10)
T5 = t5.T5Config(vocabulary=97, width=24, head_dim=5, heads=3, hidden=40, layers=2)
ROWS = np.int32([[3, 4, 5, 98, 98, 98, 98, 98], [3, 4, 5, 6, 7, 8, 9, 98]])
MASK = ROWS != 98


def drawn(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: np.float32(rng.normal(0, leaf.shape[0] ** -0.5, leaf.shape)), encoder_shapes(config)
    )


@pytest.fixture(scope="module")
def run():
    params = {config: {"params": drawn(config)} for config in (TEXT, VISION, T5)}
    compiled = {}

    def call(config, *inputs, dtype=jnp.float32):
        if (config, dtype) not in compiled:
            compiled[config, dtype] = jax.jit(encoder_network(config, dtype).apply)
        return compiled[config, dtype](params[config], *inputs)

    return call


def test_text_is_causal_and_pools_the_first_end_token(run):
    found = run(TEXT, ROWS)
    assert found.context.shape == (2, 8, 24) and found.pooled.shape == (2, 10)
    changed = ROWS.copy()
    changed[:, 5:7] = 50
    other = run(TEXT, changed)
    np.testing.assert_array_equal(found.context[:, :5], other.context[:, :5])
    assert np.abs(found.context[:, 5:] - other.context[:, 5:]).max() > 1e-2
    # The first row ends at its fourth token, the second at its last.
    np.testing.assert_array_equal(found.pooled[0], other.pooled[0])
    assert np.abs(found.pooled[1] - other.pooled[1]).max() > 1e-3


def test_image_tokens_keep_their_places(run):
    images = np.random.default_rng(1).normal(size=(2, 14, 14, 3)).astype(np.float32)
    found = run(VISION, images)
    assert found.tokens.shape == (2, 5, 24) and found.pooled.shape == (2, 10)
    mirrored = run(VISION, images[:, :, ::-1])
    assert np.abs(found.pooled - mirrored.pooled).max() > 1e-3
    np.testing.assert_allclose(run(VISION, images[::-1]).pooled, found.pooled[::-1], rtol=1e-5, atol=1e-6)


def test_t5_does_not_see_padding(run):
    found = run(T5, np.where(MASK, ROWS, 0), MASK)
    other = run(T5, np.where(MASK, ROWS, 7), MASK)
    np.testing.assert_allclose(found[MASK], other[MASK], rtol=1e-6, atol=1e-6)
    shifted = run(T5, np.roll(np.where(MASK, ROWS, 0), 1, 1), np.roll(MASK, 1, 1))
    # Relative positions only: the same words one place on are the same.
    np.testing.assert_allclose(shifted[0, 1:4], found[0, :3], rtol=1e-4, atol=1e-5)


def test_position_buckets_at_their_edges():
    buckets = t5.position_buckets(200, 32, 128)
    assert buckets[0, :9].tolist() == [0, 17, 18, 19, 20, 21, 22, 23, 24]
    assert buckets[:9, 0].tolist() == list(range(9))
    assert buckets[0, [15, 16, 127, 128, 199]].tolist() == [25, 26, 31, 31, 31] and buckets.max() == 31


@pytest.mark.parametrize("config", [TEXT, VISION, T5], ids=["text", "vision", "t5"])
def test_bfloat16_is_near(run, config):
    images = np.random.default_rng(1).normal(size=(2, 14, 14, 3)).astype(np.float32)
    inputs = {TEXT: (ROWS,), VISION: (images,), T5: (ROWS % 97, MASK)}[config]
    exact, rounded = (run(config, *inputs, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(rounded), strict=True):
        assert a.dtype == jnp.float32 and b.dtype == jnp.bfloat16
        assert np.abs(a - b.astype(jnp.float32)).max() < 0.05 * np.abs(a).max()


@pytest.mark.parametrize(
    "config, inputs, message",
    [
        (TEXT, (np.zeros((1, 9), np.int32),), r"at most 8\], got shape \(1, 9\)"),
        (VISION, (np.zeros((1, 14, 28, 3), np.float32),), "got shape .1, 14, 28, 3.: resize them first"),
        (T5, (np.zeros((1, 4), np.int32), np.ones((1, 5), bool)), r"got \(1, 4\) and \(1, 5\)"),
    ],
)
def test_wrong_inputs(config, inputs, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(encoder_network(config).init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(
    "kind, sizes, message",
    [
        (clip.CLIPTextConfig, dict(skip_last=12), "skip_last must lie in 0..11 for 12 layers"),
        (clip.CLIPTextConfig, dict(heads=7), "width=768 is not a multiple of heads=7"),
        (clip.CLIPVisionConfig, dict(patch=15), "image_size=224 is not a multiple of patch=15"),
        (clip.CLIPVisionConfig, dict(activation="relu"), "unknown activation 'relu'"),
    ],
)
def test_wrong_sizes(kind, sizes, message):
    with pytest.raises(ValueError, match=message):
        kind(**sizes)
