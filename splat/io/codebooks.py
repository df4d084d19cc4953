"""Codebooks: 256 numbers for many, and palettes of vectors (k-means in two levels)."""

import numpy as np
from jaxtyping import Float, Int, UInt8


_NUMBERS = 256
_BINS, _COARSE_BINS = 1 << 13, 1 << 7
_SAMPLES = 1 << 16  # rows that a palette is made from
_ROUNDS, _COARSE_ROUNDS = 24, 8
_AT_ONCE = 1 << 14


def number_codebook(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "256"]:
    """256 ascending numbers near all values: Lloyd's algorithm (IEEE Transactions on Information Theory, 1982).

    It works on a histogram, in which rare values count more than their number.

    Args:
        values: At least one.

    Returns:
        [256] float32.
    """
    low, high = float(values.min()), float(values.max())
    width = (high - low) / _BINS or 1.0
    bins = np.minimum((values.ravel().astype(np.float64) - low) / width, _BINS - 1).astype(np.int64)
    counts = np.bincount(bins, minlength=_BINS)
    held = counts > 0
    means = np.bincount(bins, values.ravel().astype(np.float64), _BINS)[held] / counts[held]
    # A root of the counts: the largest gaussians are few, and their error is the most visible.
    weights = np.sqrt(counts[held])
    total = np.concatenate([[0.0], np.cumsum(weights)])
    moments = np.concatenate([[0.0], np.cumsum(weights * means)])
    # The best density of a codebook is the cube root of that of the values (Panter and Dite 1951).
    coarse = counts.reshape(_COARSE_BINS, -1).sum(axis=1)
    starts = np.concatenate([[0.0], np.cumsum(np.cbrt(coarse))])
    edges = np.linspace(low, low + width * _BINS, _COARSE_BINS + 1)
    book = np.interp((np.arange(_NUMBERS) + 0.5) / _NUMBERS * starts[-1], starts, edges)
    for _ in range(_ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(means, 0.5 * (book[1:] + book[:-1])), [len(means)]])
        share = np.diff(total[edges])
        book = np.where(share > 0, np.diff(moments[edges]) / np.maximum(share, 1e-30), book)
    return np.sort(book).astype(np.float32)


def nearest(values: Float[np.ndarray, "*shape"], book: Float[np.ndarray, "size"]) -> UInt8[np.ndarray, "*shape"]:
    """Index of the nearest number of an ascending codebook of at most 256."""
    return np.searchsorted(0.5 * (book[1:] + book[:-1]), values).astype(np.uint8)


def palette(rows: Float[np.ndarray, "N D"], size: int) -> tuple[Float[np.ndarray, "P D"], Int[np.ndarray, "N"]]:
    """Vectors near which all rows lie.

    k-means into about sqrt(size) groups, and inside each group into a share of `size` that grows with its rows: exact
    k-means of so many vectors would take minutes. Random choices are seeded.

    Args:
        rows: N vectors, float32.
        size: Most vectors of the palette.

    Returns:
        The P <= size vectors, and the index of one for each row.
    """
    random = np.random.default_rng(0)
    if len(rows) <= size:
        return rows.astype(np.float32), np.arange(len(rows))
    coarse = _k_means(rows, max(1, int(np.sqrt(size))), random)
    groups = _nearest_rows(rows, coarse)
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(len(coarse) + 1))
    labels = np.empty(len(rows), np.int64)
    parts: list[np.ndarray] = []
    count = 0
    for group in range(len(coarse)):
        members = order[bounds[group] : bounds[group + 1]]
        if not len(members):
            continue
        # One for each group and the rest by rows, rounded down: together at most `size`.
        share = 1 + (size - len(coarse)) * len(members) // len(rows)
        inside = rows[members]
        book = inside if len(members) <= share else _k_means(inside, share, random)
        labels[members] = count + _nearest_rows(inside, book)
        parts.append(book)
        count += len(book)
    return np.concatenate(parts).astype(np.float32), labels


def _k_means(rows: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    if len(rows) > _SAMPLES:
        rows = rows[random.choice(len(rows), _SAMPLES, replace=False)]
    book = rows[random.choice(len(rows), size, replace=False)].astype(np.float32)
    for _ in range(_COARSE_ROUNDS):
        labels = _nearest_rows(rows, book)
        order = np.argsort(labels, kind="stable")
        starts = np.searchsorted(labels[order], np.arange(size))
        counts = np.bincount(labels, minlength=size)
        filled = counts > 0
        # Rows of a group stand together; empty groups keep their place.
        sums = np.add.reduceat(rows[order].astype(np.float64), starts[filled], axis=0)
        book[filled] = sums / counts[filled, None]
    return book


def _nearest_rows(rows: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Index of the nearest vector of `book` [P, D] for each row [N, D]."""
    lengths = 0.5 * (book.astype(np.float64) ** 2).sum(axis=1).astype(np.float32)
    step = max(1, _AT_ONCE * 256 // len(book))
    parts = [
        (rows[start : start + step] @ book.T - lengths[None]).argmax(axis=1) for start in range(0, len(rows), step)
    ]
    return np.concatenate(parts)
