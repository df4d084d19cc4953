"""Draws the views of every line of a file of prompts, in batches over all devices; with --assets also fits assets.

    python -m experiments.sample --prompts=prompts.jsonl --out=runs/many
    python -m experiments.sample --prompts=prompts.jsonl --model=DIR --batch=64 --assets --quality=best --out=runs/many

The same as `im3d batch`, with the same flags and files, for absl's launchers and flag files: see `im3d batch --help`.
"""

from __future__ import annotations

from absl import flags

from experiments.programs import Program, command_line
from im3d_jax.generation.flags import define_batch, make_lines


def run(values: flags.FlagValues) -> None:
    """Draws what is not finished yet.

    Raises:
        InputError: See `make_lines`.
    """
    make_lines(values, command_line("sample"))


PROGRAM = Program("sample", define_batch, run, "finished lines are kept, the same command goes on")


if __name__ == "__main__":
    PROGRAM.start()
