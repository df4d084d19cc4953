"""What `experiments.sample` reads: prompts files, flags, and what of both it refuses."""

import pytest
from absl import flags

from experiments import sample
from experiments.prompts import Line, read_lines
from im3d_jax.errors import InputError
from tests.experiments.test_sample import parsed, written


def test_lines_of_a_file(tmp_path):
    file = written(tmp_path, {"prompt": "a\u2028b"}, {"image": "disc.png", "prompt": None, "seed": 7})
    file.write_text("\n" + file.read_text() + "  \n")
    assert read_lines(file, seed=9) == [
        Line(2, "a\u2028b", None, 9), Line(3, None, str(tmp_path / "disc.png"), 7)
    ]  # fmt: skip
    assert read_lines(file)[0].name == "00002"


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"prompt": "mug"}\n{"prompt": mug}\n', "line 2 of .* is no JSON"),
        ("[1]", r"line 1 of .* holds \[1\]; expected an object"),
        ('{"seed": 3}', "line 1 of .* has neither prompt nor image"),
        ('{"promt": "mug"}', "line 1 of .*unknown field 'promt'; did you mean 'prompt'"),
        ('{"x": 1}', "unknown field 'x'; known are prompt, image, seed"),
        ('{"prompt": "a", "seed": 1, "seed": 2}', "line 1 of .*'seed' is given twice"),
        ('{"prompt": " "}', "the prompt is empty"),
        ('{"prompt": 3}', "prompt is 3; expected text"),
        ('{"prompt": "a", "seed": true}', "seed is true; expected a whole number"),
        ('{"prompt": "a", "seed": 1.5}', "seed is 1.5; expected"),
        ('{"prompt": "a", "seed": -1}', "seed is -1; expected a whole number from 0 to 4294967295"),
        ('{"image": "none.png"}', "no picture .*none.png; paths count from"),
        ('{"image": "%s"}' % ("x" * 5000), "line 1 of .*: no picture .*xxx; paths count from"),
        ('{"image": "prompts.jsonl"}', "line 1 of .*not a readable picture"),
        ("\n \n", "has no line"),
    ],
)
def test_wrong_lines_end_with_one_line_and_code_2(text, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "prompts.jsonl").write_text(text)
    values = parsed(f"--prompts={tmp_path / 'prompts.jsonl'}", f"--out={tmp_path / 'out'}")
    monkeypatch.setattr(sample.flags, "FLAGS", values)
    assert sample.main(["sample"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and not printed.out
    with pytest.raises(InputError, match=message):
        raise InputError(printed.err)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--prompts is missing"),
        (["--prompts=none.jsonl"], "--out is missing"),
        (["--prompts=none.jsonl", "--out=x"], "--prompts=none.jsonl: cannot be read"),
        (["--prompts=none.jsonl", "--out=x", "--shard=2/2"], "--shard=2/2: expected"),
    ],
)
def test_wrong_flags(arguments, message):
    with pytest.raises(InputError, match=message):
        sample.run(parsed(*arguments), "")


def test_a_wrong_flag_ends_with_code_2(monkeypatch, capsys):
    values = flags.FlagValues()
    sample.define_flags(values)
    monkeypatch.setattr(sample.flags, "FLAGS", values)
    for wrong in ("--promts=x", "--batch=0", "--seed=-1"):
        with pytest.raises(SystemExit) as ended:
            sample.parse_flags(["sample", wrong])
        assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert sample.main(["sample", "more"]) == 2 and "unexpected arguments: more" in capsys.readouterr().err
