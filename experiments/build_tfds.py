"""Writes turntables as a data set of tensorflow-datasets (array_record files), without TensorFlow.

    python -m experiments.build_tfds --turntables=data/props --out=data/tfds
    python -m experiments.build_tfds --turntables=toybox:64:128 --out=data/tfds --beam --beam_runner=DirectRunner

--turntables is a folder of `im3d render-dataset`, a data set of this program, toybox[:objects[:size[:frames]]], or
props:PACK[:objects[:size[:frames]]]. --beam shares the files over the workers of Apache Beam (extra `beam`);
--beam_option, once for each, gives the runner its own flags. On a cluster the folders must be reachable from all
workers. Prints the data set's folder.
"""

from __future__ import annotations

from absl import flags

from experiments.programs import Program
from im3d_jax import environment
from im3d_jax.errors import InputError
from im3d_jax.number_flags import define_integer
from im3d_jax.paths import define_path
from im3d_jax.progress import Progress, ProgressPrinter


def define_flags(values: flags.FlagValues) -> None:
    """Flags of this program."""
    define_path(
        "turntables",
        None,
        "folder of turntables, toybox[:objects[:size[:frames]]], or props:PACK[:objects[:size[:frames]]]",
        flag_values=values,
    )
    define_path("out", None, "folder under which the data set gets its own", flag_values=values)
    define_integer("shards", None, "number of files; by size if not given", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("beam", False, "works with Apache Beam", flag_values=values)
    flags.DEFINE_string("beam_runner", "DirectRunner", "with --beam: name of the runner", flag_values=values)
    flags.DEFINE_multi_string(
        "beam_option", [], "with --beam: a flag of the runner, as in --project=x", flag_values=values
    )


def build(values: flags.FlagValues, progress: Progress) -> None:
    """Writes the data set and prints its folder.

    Raises:
        InputError: A flag is missing or has no use; see `build_turntables`.
    """
    for name in ("turntables", "out"):
        if not values[name].value:
            raise InputError(f"--{name} is missing; --helpshort lists the flags")
    unused = [name for name in ("beam_runner", "beam_option") if values[name].present and not values.beam]
    if unused:
        raise InputError(f"--{unused[0]} is for --beam; give both or none")
    # Takes most of a second to import: after the flags are checked.
    from im3d_jax.data.turntable_tfds import build_turntables

    if values.beam:
        progress.line(f"{values.beam_runner} works; progress is shown by the runner")
    with progress.stage("turntables") as report:
        folder = build_turntables(
            values.turntables,
            values.out,
            shards=values.shards,
            report=report,
            beam_runner=values.beam_runner if values.beam else None,
            beam_options=values.beam_option,
        )
    print(folder)


def run(values: flags.FlagValues) -> None:
    """See `build`."""
    environment.start_jax()
    build(values, ProgressPrinter())


PROGRAM = Program("build_tfds", define_flags, run, "nothing is written")


if __name__ == "__main__":
    PROGRAM.start()
