"""Sums over contiguous ranges: deterministic, without atomics and without differences of long prefix sums."""
import jax
import jax.numpy as jnp

CHUNK = 32


def segmented_scan(values: jax.Array, first: jax.Array, *, exclusive: bool) -> jax.Array:
    """Prefix sums along axis 0 that restart wherever `first` is True.

    Args:
      values: [M, ...].
      first: [M] bool, True at the first element of each segment.
      exclusive: leave out the element itself.

    Returns:
      [M, ...].
    """
    starts = first.reshape((-1,) + (1,) * (values.ndim - 1))

    def combine(left, right):
        left_value, left_start = left
        right_value, right_start = right
        return jnp.where(right_start, right_value, left_value + right_value), left_start | right_start

    if exclusive:
        shifted = jnp.concatenate([jnp.zeros_like(values[:1]), values[:-1]])
        values = jnp.where(starts, 0.0, shifted)
    return jax.lax.associative_scan(combine, (values, starts), axis=0)[0]


def sum_runs(rows: jax.Array, order: jax.Array, start: jax.Array, count: jax.Array) -> jax.Array:
    """Sums rows over runs of consecutive places.

    Two levels, both tree- or chunk-shaped: inside chunks of 32 rows by a triangular product that restarts at each run,
    then over the chunks that a long run spans.

    Args:
      rows: [R, D].
      order: [C] the row that stands at each place.
      start: [S] first place of each run; runs do not overlap.
      count: [S] places in each run; 0 gives a zero sum.

    Returns:
      [S, D].
    """
    places = order.shape[0]
    chunks = -(-max(places, 1) // CHUNK)
    run_first = jnp.zeros(chunks * CHUNK, bool).at[jnp.where(count > 0, start, chunks * CHUNK)].set(True, mode="drop")
    padded = jnp.concatenate([order, jnp.zeros(chunks * CHUNK - places, order.dtype)])
    chunked = rows[padded].reshape(chunks, CHUNK, -1)
    marks = run_first.reshape(chunks, CHUNK)

    label = jnp.cumsum(marks, axis=1, dtype=jnp.int32)
    same = (label[:, :, None] == label[:, None, :]) & jnp.tril(jnp.ones((CHUNK, CHUNK), bool))[None]
    prefix = jnp.einsum("cij,cjd->cid", same.astype(rows.dtype), chunked, precision="highest")

    # A chunk's last prefix belongs to the run that is open at its end; that run started here if the chunk holds a mark.
    open_run = segmented_scan(prefix[:, -1], jnp.any(marks, axis=1), exclusive=False)
    last = jnp.maximum(start + count - 1, 0)
    last_chunk = last // CHUNK
    inside = prefix.reshape(chunks * CHUNK, -1)[last]
    crossing = (last_chunk > start // CHUNK)[:, None]
    total = inside + jnp.where(crossing, open_run[jnp.maximum(last_chunk - 1, 0)], 0.0)
    return jnp.where((count > 0)[:, None], total, 0.0)
