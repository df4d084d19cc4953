"""How the programs start and end: flags, exit codes, one line on stderr; and that they are not installed."""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest
from absl import flags

import experiments
from experiments.programs import Program
from im3d_jax.errors import InputError
from tests.flag_bounds import unbounded


FOLDER = pathlib.Path(experiments.__file__).parent
PROGRAMS = [
    "sample", "evaluate", "gallery", "toybox", "train_clip_elevation", "benchmarks.rasterizer", "benchmarks.fit_steps",
    "benchmarks.networks", "benchmarks.captures", "benchmarks.readers", "benchmarks.loader", "build_tfds", "train",
    "encode",
]  # fmt: skip


def program(run):
    define = lambda values: flags.DEFINE_integer("count", 1, "", flag_values=values)  # noqa: E731
    return Program("there", define, run, "half is kept")


def test_exit_codes(capsys):
    seen = []
    assert program(lambda values: seen.append(values.count))(["--count=3"]) == 0 and seen == [3]

    def refuse(values):
        raise InputError("not\nthis")

    def stop(values):
        raise KeyboardInterrupt

    for run, arguments, code, line in (
        (refuse, [], 2, "there: not this\n"),
        (stop, [], 130, "there: stopped; half is kept\n"),
        (refuse, ["more"], 2, "there: unexpected arguments: more; flags begin with --\n"),
        (refuse, ["--count=x"], 2, None),
        (refuse, ["--cuont=1"], 2, None),
    ):
        assert program(run)(arguments) == code
        printed = capsys.readouterr()
        assert printed.err.count("\n") == 1 and not printed.out and printed.err.startswith("there: ")
        assert line in (None, printed.err)
    with pytest.raises(ZeroDivisionError):
        program(lambda values: 1 / 0)([])


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_its_flags_and_its_name(name, capsys):
    one = importlib.import_module(f"experiments.{name}").PROGRAM
    assert one.name == name
    assert one(["--no_such_flag=1"]) == 2 and capsys.readouterr().err.startswith(f"{name}: Unknown command line flag")
    values = flags.FlagValues()
    one.define_flags(values)
    assert unbounded(values) == []
    assert all(values[flag].help for flag in values) and len(list(values)) >= 4


def test_as_a_process():
    """absl's help, and code 2 with one line for a wrong flag."""
    command = [sys.executable, "-m", "experiments.benchmarks.readers"]
    shown = subprocess.run([*command, "--help"], cwd=FOLDER.parent, capture_output=True, text=True, timeout=120)
    assert "--inputs: number of damaged files" in shown.stdout and "damaged in random ways" in shown.stdout
    done = subprocess.run([*command, "--inputs=0"], cwd=FOLDER.parent, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--helpshort lists the flags" in done.stderr


def test_the_wheel_does_not_hold_experiments():
    text = (FOLDER.parent / "setup.py").read_text()
    (packages,) = [
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PACKAGES"
    ]
    assert ast.literal_eval(packages) == ["im3d_jax", "splat"]
