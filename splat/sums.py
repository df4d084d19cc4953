"""Sums over contiguous ranges: deterministic, without atomics and without differences of long prefix sums."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32


CHUNK = 32
GROUP = 16


def segmented_scan(
    values: Float[Array, "M *rest"], place: Int32[Array, "M"], *, exclusive: bool, reverse: bool = False
) -> Float[Array, "M *rest"]:
    """Prefix sums along axis 0 that restart at each segment.

    Two levels: inside groups of 16 rows by a triangular product that restarts at each segment, then over the
    groups that a long segment spans. The number of steps of the second level is known only when it runs.

    Args:
        values: [M, ...], finite: the product multiplies other segments' rows by zero.
        place: [M] int32, place of each element inside its segment, counted from 0 (from its end with `reverse`).
        exclusive: Leave out the element itself.
        reverse: Sum from the end of each segment.

    Returns:
        [M, ...].
    """
    size, shape = values.shape[0], values.shape[1:]
    inside, before, local = _two_levels(values, place, exclusive, reverse)
    spans = (_grouped(place) > local[None])[:, :, None]
    sums = inside + jnp.where(spans, before[:, None], 0.0)
    return sums.reshape(-1, *shape)[:size]


def sum_segments(
    values: Float[Array, "M *rest"], place: Int32[Array, "M"], last: Int32[Array, "T"]
) -> Float[Array, "T *rest"]:
    """Sums whole segments: `segmented_scan` at their last elements only.

    Args:
        values: [M, ...], finite.
        place: [M] int32, place of each element inside its segment, counted from 0.
        last: [T] int32, the last element of each segment to sum.

    Returns:
        [T, ...].
    """
    inside, before, _ = _two_levels(values, place, exclusive=False, reverse=False)
    spans = (place[last] > last % GROUP)[:, None]
    sums = inside.reshape(-1, inside.shape[-1])[last] + jnp.where(spans, before[last // GROUP], 0.0)
    return sums.reshape(-1, *values.shape[1:])


def _grouped(values: jax.Array) -> jax.Array:
    """Reshapes [M, ...] to [groups, 16, ...] with zeros after the end."""
    size = values.shape[0]
    groups = -(-max(size, 1) // GROUP)
    padding = [(0, groups * GROUP - size)] + [(0, 0)] * (values.ndim - 1)
    return jnp.pad(values, padding).reshape(groups, GROUP, *values.shape[1:])


def _two_levels(
    values: Float[Array, "M *rest"], place: Int32[Array, "M"], exclusive: bool, reverse: bool
) -> tuple[Float[Array, "G 16 D"], Float[Array, "G D"], Int32[Array, "16"]]:
    """Both levels of `segmented_scan`.

    Returns:
        Sums inside each group, sums over the groups before it of the segment that is open at its border, and the
        number of elements of a group before each of its elements.
    """
    place = _grouped(place)
    rows = _grouped(values.reshape(values.shape[0], -1))
    index = jnp.arange(GROUP, dtype=jnp.int32)
    local = GROUP - 1 - index if reverse else index
    back = (local[:, None] - local[None])[None]
    same = (back >= (1 if exclusive else 0)) & (back <= place[:, :, None])
    inside = jnp.einsum("gij,gjd->gid", same.astype(rows.dtype), rows, precision="highest")
    border = 0 if reverse else -1
    tail = inside[:, border] + (rows[:, border] if exclusive else 0.0)
    total = _scan_by_doubling(tail, place[:, border] // GROUP, reverse)
    zero = jnp.zeros_like(total[:1])
    before = jnp.concatenate([total[1:], zero] if reverse else [zero, total[:-1]])
    return inside, before, local


def _scan_by_doubling(
    values: Float[Array, "M D"], place: Int32[Array, "M"], reverse: bool = False
) -> Float[Array, "M D"]:
    """Inclusive `segmented_scan` of short arrays (Hillis and Steele 1986)."""

    def double(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        step, array = state
        moved = jnp.roll(array, -step if reverse else step, axis=0)
        # The comparison discards elements rolled in from another segment or from the other end.
        return 2 * step, array + jnp.where((place >= step)[:, None], moved, 0.0)

    longest = jnp.max(place, initial=0)
    return jax.lax.while_loop(lambda state: state[0] <= longest, double, (jnp.int32(1), values))[1]


def sum_runs(
    rows: Float[Array, "R D"], order: Int32[Array, "C"], start: Int32[Array, "S"], count: Int32[Array, "S"]
) -> Float[Array, "S D"]:
    """Sums rows over runs of consecutive places.

    Two levels, both tree- or chunk-shaped: inside chunks of 32 rows by a triangular product that restarts at
    each run, then over the chunks that a long run spans.

    Args:
        rows: [R, D].
        order: [C] int32, the row at each place.
        start: [S] int32, first place of each run; runs do not overlap.
        count: [S] int32, places in each run; 0 gives a zero sum.

    Returns:
        [S, D].
    """
    places = order.shape[0]
    chunks = -(-max(places, 1) // CHUNK)
    target = jnp.where(count > 0, start, chunks * CHUNK)
    run_first = jnp.zeros(chunks * CHUNK, bool).at[target].set(True, mode="drop")
    padded = jnp.concatenate([order, jnp.zeros(chunks * CHUNK - places, order.dtype)])
    chunked = rows[padded].reshape(chunks, CHUNK, -1)
    marks = run_first.reshape(chunks, CHUNK)

    label = jnp.cumsum(marks, axis=1, dtype=jnp.int32)
    same = (label[:, :, None] == label[:, None, :]) & jnp.tril(jnp.ones((CHUNK, CHUNK), bool))[None]
    prefix = jnp.einsum("cij,cjd->cid", same.astype(rows.dtype), chunked, precision="highest")

    # A chunk's last prefix belongs to the run that is open at its end, begun here if the chunk holds a mark.
    chunk = jnp.arange(chunks, dtype=jnp.int32)
    started = jax.lax.cummax(jnp.where(jnp.any(marks, axis=1), chunk, 0))
    open_run = _scan_by_doubling(prefix[:, -1], chunk - started)
    last = jnp.maximum(start + count - 1, 0)
    last_chunk = last // CHUNK
    inside = prefix.reshape(chunks * CHUNK, -1)[last]
    crossing = (last_chunk > start // CHUNK)[:, None]
    total = inside + jnp.where(crossing, open_run[jnp.maximum(last_chunk - 1, 0)], 0.0)
    return jnp.where((count > 0)[:, None], total, 0.0)


@jax.custom_vjp
def take_rows(values: Float[Array, "S"], index: Int32[Array, "M"]) -> Float[Array, "M"]:
    """Gathers values with a gradient that needs no scatter-add.

    Args:
        values: [S].
        index: [M] int32, below S.

    Returns:
        [M], 0 where the index is negative.
    """
    return jnp.where(index >= 0, values[jnp.maximum(index, 0)], 0.0)


def _take_rows_fwd(values: jax.Array, index: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return take_rows(values, index), (index, jnp.zeros_like(values))


def _take_rows_bwd(residuals: tuple[jax.Array, jax.Array], bar: jax.Array) -> tuple[jax.Array, None]:
    index, like = residuals
    order = jnp.argsort(index, stable=True).astype(jnp.int32)
    rows = jnp.arange(like.shape[0] + 1, dtype=index.dtype)
    places = jnp.searchsorted(index[order], rows).astype(jnp.int32)
    return sum_runs(bar[:, None], order, places[:-1], places[1:] - places[:-1])[:, 0], None


take_rows.defvjp(_take_rows_fwd, _take_rows_bwd)
