"""A part of the work for each of several processes."""

from im3d_jax.errors import InputError


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of ``i/n``, as --shard has it.

    Raises:
        InputError: not two numbers with 0 <= i < n.
    """
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise InputError(f"--shard={text}: expected i/n with i from 0 to n - 1, as in 0/4")
    return int(part), int(parts)
