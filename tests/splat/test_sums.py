"""Contiguous sums against float64 loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splat.sums import segmented_scan, sum_runs, take_rows


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_segmented_scan(exclusive, reverse):
    rng = np.random.default_rng(0)
    lengths = np.array([1, 7, 2, 33, 1, 5])
    values = rng.normal(size=(lengths.sum(), 3)).astype(np.float32)
    expected, place = [], []
    for part, n in zip(np.split(values, np.cumsum(lengths)[:-1]), lengths, strict=True):
        part = part[::-1] if reverse else part
        sums = np.cumsum(part.astype(np.float64), axis=0) - (part if exclusive else 0)
        expected.append(sums[::-1] if reverse else sums)
        place.append(np.arange(n)[::-1] if reverse else np.arange(n))
    place = jnp.asarray(np.concatenate(place), jnp.int32)
    ours = jax.jit(segmented_scan, static_argnames=("exclusive", "reverse"))(
        jnp.asarray(values), place, exclusive=exclusive, reverse=reverse
    )
    np.testing.assert_allclose(ours, np.concatenate(expected), atol=2e-6)


@pytest.mark.parametrize("biggest", [3, 40, 900])
def test_sum_runs(biggest):
    """Runs below, about and far above one chunk; a large value in one run leaves the others' digits alone."""
    rng = np.random.default_rng(biggest)
    count = rng.integers(0, biggest + 1, 60)
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    total = int(count.sum())
    rows = rng.normal(size=(total + 11, 4)).astype(np.float32)
    order = rng.permutation(total + 11)[: total + 5].astype(np.int32)  # five places behind the last run
    heavy = int(np.argmax(count))
    rows[order[start[heavy]]] = 1e8
    shuffled = rng.permutation(60)
    ours = jax.jit(sum_runs)(
        *(jnp.asarray(a) for a in (rows, order, start[shuffled].astype(np.int32), count[shuffled].astype(np.int32)))
    )
    places = [order[s : s + n] for s, n in zip(start, count, strict=True)]
    expected = np.stack([rows[p].astype(np.float64).sum(0) for p in places])
    others = shuffled != heavy
    np.testing.assert_allclose(np.asarray(ours)[others], expected[shuffled][others], atol=1e-4, rtol=0)
    np.testing.assert_allclose(np.asarray(ours)[~others], expected[shuffled][~others], rtol=1e-6)


def test_take_rows_and_its_gradient():
    rng = np.random.default_rng(0)
    index = rng.integers(-1, 9, 200).astype(np.int32)
    index[index == 4] = 3  # a row that nothing takes
    values, bar = rng.normal(size=9).astype(np.float32), rng.normal(size=200).astype(np.float32)

    @jax.jit
    def run(values, index, bar):
        out, pull = jax.vjp(lambda values: take_rows(values, index), values)
        return out, pull(bar)[0]

    out, grad = run(*(jnp.asarray(a) for a in (values, index, bar)))
    np.testing.assert_array_equal(out, np.where(index >= 0, values[index], 0))
    np.testing.assert_allclose(grad, [bar[index == i].sum() for i in range(9)], atol=1e-5)
