"""Draws the views of every line of a file of prompts, in batches over all devices; --assets fits assets as well.

A line is {"prompt": "a red mug", "image": "mug.png", "seed": 1} with a prompt, a picture (its path is relative to the
file) or both. Line 7 gets the run folder OUT/00007, as `im3d views` (or `im3d generate`) makes it with this seed: the
same views to rounding, whatever else is in its batch. OUT/summary.json holds the throughput. Rerun the same command to
resume an interrupted run.

A line that fails is reported and skipped. When all others are finished, the command ends with exit code 2; rerun it to
try the failed lines again. With --shard=0/4 ... --shard=3/4 four machines share the lines.
"""

import shlex
import sys

from absl import flags

from im3d_jax.generation.flags import define_batch, make_lines


def register(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_batch(values)


def run(values: flags.FlagValues) -> None:
    """Checks the flags and lines, then draws. Raises `InputError` for a wrong input, and for lines that failed."""
    make_lines(values, shlex.join(["im3d", *sys.argv[1:]]))
