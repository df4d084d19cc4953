"""`experiments.sample` is `im3d batch` under absl: the same flags, the same files."""

import json

import pytest
from absl import flags

from experiments import sample
from im3d_jax.cli import batch
from im3d_jax.cli.main import main
from tests.generation.test_many import written
from tests.tiny import FRAMES, write_bundle


def test_the_flags_are_those_of_im3d_batch():
    ours, theirs = flags.FlagValues(), flags.FlagValues()
    sample.PROGRAM.define_flags(ours)
    batch.register(theirs)
    assert set(ours) == set(theirs)
    for name in ours:
        one, other = ours[name], theirs[name]
        assert (one.default, one.flag_type()) == (other.default, other.flag_type()), name
        limits = [vars(flag.parser) | {"choices": getattr(flag.parser, "enum_values", None)} for flag in (one, other)]
        assert limits[0] == limits[1], name


def test_two_parts_by_two_programs_are_one_result(tmp_path, capsys):
    bundle, out = write_bundle(tmp_path / "model"), tmp_path / "out"
    file = written(tmp_path, *({"prompt": "mug", "seed": seed} for seed in range(3)))
    arguments = [f"--prompts={file}", f"--model={bundle}", "--quality=draft", "--batch=1", f"--out={out}"]
    assert main(["batch", "--shard=0/2", *arguments]) == 0
    assert sample.PROGRAM(["--shard=1/2", *arguments]) == 0
    assert [len(list((out / f"0000{number}/views").iterdir())) for number in (1, 2, 3)] == [FRAMES] * 3
    summaries = [json.loads((out / f"summary_{part}_of_2.json").read_text()) for part in (0, 1)]
    assert [summary["finished"] for summary in summaries] == [2, 1]
    assert summaries[0]["command"].startswith("im3d") and "experiments.sample" in summaries[1]["command"]
    capsys.readouterr()
    assert sample.PROGRAM(arguments) == 0
    assert "3 of 3 lines: already finished" in capsys.readouterr().err
    whole = json.loads((out / "summary.json").read_text())
    assert whole["finished"] == 3 and whole["drawn_by_this_run"] == 0 and whole["quality"] == "draft"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--prompts is missing"),
        (["--prompts=none.jsonl"], "--out is missing"),
        (["--prompts=none.jsonl", "--out=x"], "--prompts=none.jsonl: cannot be read"),
        (["--prompts=none.jsonl", "--out=x", "--shard=2/2"], "--shard=2/2: expected"),
        (["--batch=0"], "flag --batch"),
        (["--seed=-1"], "flag --seed"),
    ],
)
def test_wrong_flags_are_one_line(arguments, message, capsys):
    assert sample.PROGRAM(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and message in printed.err and not printed.out
