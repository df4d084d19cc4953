"""`im3d batch`: its flags, its files, and exit codes; what lines get is tested with `generation.many`."""

import json

import pytest

from im3d_jax.cli.main import main
from im3d_jax.images.files import encode_png, read_images
from tests.fake_model import FakeModel, disc


@pytest.fixture
def lines(tmp_path):
    """Writes a file of prompts, and a picture beside it; returns the flags that every call has."""
    (tmp_path / "disc.png").write_bytes(encode_png(disc(0, 5, 40)))

    def write(*objects):
        text = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in objects)
        (tmp_path / "prompts.jsonl").write_text(text)
        return ["batch", f"--prompts={tmp_path / 'prompts.jsonl'}", f"--out={tmp_path / 'out'}", "--quality=draft"]

    return write


def test_views_of_every_line(lines, bundle, tmp_path, capsys):
    flags = [
        *lines({"prompt": "a red mug", "seed": 3}, {"prompt": "mug"}, {"image": "disc.png"}),
        f"--model={bundle}",
        "--batch=2",
    ]
    assert main(flags) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["finished"] == summary["lines"] == 3 and summary["batch"] == 2 and summary["assets"] is False
    assert summary["command"].startswith("im3d") and summary["quality"] == "draft" and summary["failed"] == {}
    for name in ("00001", "00002", "00003"):
        assert read_images(sorted((tmp_path / "out" / name / "views").iterdir())).shape == (4, 32, 32, 4)
    capsys.readouterr()
    # A single command finds its line finished.
    single = ["views", "--prompt=a red mug", "--seed=3", "--quality=draft", f"--model={bundle}"]
    assert main([*single, f"--out={tmp_path / 'out/00001'}"]) == 0
    assert "views: already finished" in capsys.readouterr().err
    assert main(flags) == 0 and "nothing is left to draw" in capsys.readouterr().err


def test_assets_and_the_parts_of_several_machines(lines, drawn_by, tmp_path):
    flags = [*lines(*({"prompt": "mug", "seed": seed} for seed in range(3))), "--assets", "--rounds=0"]
    for part in range(2):
        model = FakeModel(rows=2)
        drawn_by(model.pipeline)
        assert main([*flags, f"--shard={part}/2"]) == 0
        assert model.calls.count("views") == 2 - part
        summary = json.loads((tmp_path / f"out/summary_{part}_of_2.json").read_text())
        assert summary["finished"] == 2 - part and summary["assets"] is True
    assert all((tmp_path / f"out/0000{number}/asset.ply").is_file() for number in (1, 2, 3))


def test_lines_that_fail_give_exit_code_2(lines, drawn_by, tmp_path, capsys):
    from im3d_jax.errors import WeightsError

    class Failing(FakeModel):
        def draw_views(self, tasks, settings, **named):
            drawing = super().draw_views(tasks, settings, **named)
            rows = zip(tasks, drawing(), strict=True)
            return lambda: [WeightsError("no luck") if task.seed == 1 else drawn for task, drawn in rows]

    drawn_by(Failing(rows=2).pipeline)
    assert main(lines({"prompt": "mug"}, {"prompt": "mug", "seed": 1})) == 2
    said = capsys.readouterr().err.splitlines()
    assert "line 2: no luck" in said and said[-1].startswith("im3d: 1 of 2 lines failed")
    assert (tmp_path / "out/00001/views/03.png").is_file()


def test_ctrl_c(lines, fake, tmp_path, capsys):
    flags = lines({"prompt": "mug"}, {"prompt": "mug", "seed": 1})
    fake.failures["orbit"] = KeyboardInterrupt()
    assert main(flags) == 130
    assert "rerun the same command to resume" in capsys.readouterr().err
    fake.calls.clear()
    assert main(flags) == 0
    assert json.loads((tmp_path / "out/summary.json").read_text())["finished"] == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"prompt": "mug"}\n{"prompt": mug}\n', "line 2 of "),
        ('{"promt": "mug"}', "did you mean 'prompt'"),
        ('{"image": "none.png"}', "no picture "),
        ('{"image": "prompts.jsonl"}', "line 1: image "),
        ("\n \n", "has no lines"),
    ],
)
def test_wrong_lines(text, message, lines, fake, tmp_path, capsys):
    assert main(lines(text)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("im3d: ") and message in printed.err
    assert printed.err.count("\n") == 1 and not printed.out and not fake.calls
    assert not (tmp_path / "out/summary.json").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "--prompts is missing"),
        (["--prompts=none.jsonl"], "--out is missing"),
        (["--prompts=none.jsonl", "--out=x"], "--prompts=none.jsonl: cannot be read"),
        (["--prompts=none.jsonl", "--out=x", "--shard=2/2"], "--shard=2/2: expected"),
        (["--prompts=none.jsonl", "--out=x", "--batch=0"], "--batch=0"),
        (["--promptz=none.jsonl"], "Did you mean: prompts"),
        (["more"], "unexpected argument 'more'"),
    ],
)
def test_wrong_flags(flags, message, capsys):
    assert main(["batch", *flags]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
