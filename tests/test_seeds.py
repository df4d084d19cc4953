"""Streams of a seed: all distinct, and the same for ever."""

import jax

from im3d_jax import seeds


def test_streams_are_distinct():
    numbers = (seeds.PICTURE, seeds.VIEWS, seeds.REFINE, seeds.FIT, seeds.CONDITION, seeds.ORBIT)
    drawn = {int(jax.random.bits(seeds.stream(seed, number))) for seed in (0, 1) for number in numbers}
    assert len(drawn) == 2 * len(numbers)


def test_streams_never_change():
    """Old runs stay reproducible: these are the bits that the first release drew."""
    assert (seeds.PICTURE, seeds.VIEWS, seeds.REFINE, seeds.FIT, seeds.CONDITION, seeds.ORBIT) == (0, 1, 2, 3, 5, 6)
    expected = jax.random.fold_in(jax.random.key(7), 1)
    assert (jax.random.key_data(seeds.stream(7, seeds.VIEWS)) == jax.random.key_data(expected)).all()


def test_the_largest_seed():
    assert int(jax.random.bits(seeds.stream(seeds.LARGEST, 0))) != int(jax.random.bits(seeds.stream(0, 0)))
