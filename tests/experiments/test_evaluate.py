"""The program: which objects it takes, that nothing finished is lost or made twice, and what it refuses."""

import io
import json

import pytest
from absl import flags

from experiments import evaluate
from im3d_jax.errors import InputError
from im3d_jax.pipelines import bundle
from im3d_jax.progress import ProgressPrinter
from tests.fake_model import FakeModel


def parsed(*arguments):
    values = flags.FlagValues()
    evaluate.define_flags(values)
    values(["evaluate", *map(str, arguments)])
    return values


class Noting(FakeModel):
    """Notes the seeds of the views that it draws."""

    def __init__(self):
        super().__init__()
        self.seeds = []

    def draw_views(self, tasks, settings, **named):
        self.seeds += [task.seed for task in tasks]
        return super().draw_views(tasks, settings, **named)


def evaluated(model, *arguments):
    """Evaluates; returns what was said."""
    told = io.StringIO()
    evaluate.evaluate_objects(parsed(*arguments), model.pipeline, ProgressPrinter(told))
    return told.getvalue()


def test_shards_share_the_objects(tmp_path):
    model, out = Noting(), f"--out={tmp_path}"
    arguments = ["--quality=draft", "--rounds=0", "--objects=3", out]
    evaluated(model, "--shard=1/2", *arguments)
    assert model.seeds == [1] and not (tmp_path / "results.json").exists()
    evaluated(model, *arguments)
    assert model.seeds == [1, 0, 2] and json.loads((tmp_path / "results.json").read_text())["objects"] == 3
    evaluated(model, *arguments, "--first=2", "--objects=2")
    assert model.seeds == [1, 0, 2, 3]
    assert [row["index"] for row in json.loads((tmp_path / "results.json").read_text())["records"]] == [2, 3]
    with pytest.raises(InputError, match="objects 0 to"):
        evaluated(model, *arguments, "--first=1000000")


def test_a_run_goes_on_where_it_stopped(tmp_path, capsys):
    model = Noting()
    arguments = ["--quality=draft", "--rounds=0,1", "--seed=7", f"--out={tmp_path}", f"--table={tmp_path}/page.md"]
    evaluated(model, "--objects=1", *arguments)
    assert "object 0: already finished" in evaluated(model, "--objects=2", *arguments)
    assert model.seeds == [7, 8]
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["objects"] == 2 and found["command"].startswith("python -m experiments.evaluate")
    assert found["settings"]["weights"] == {"name": "fake", "sha256": "0" * 64}
    assert found["settings"]["sampling"]["fit"]["steps"] == 12 and "av" not in found["settings"]["versions"]
    assert (tmp_path / "001.png").is_file() and "python -m experiments.evaluate" in (tmp_path / "page.md").read_text()
    assert capsys.readouterr().out.count('"views, PSNR in dB": ') == 2


def test_sampling_flags():
    values = parsed("--level=0.3", "--refine_steps=4", "--guidance=2,1", "--view_steps=3", "--view_guidance=1,1.5")
    usual = bundle.QUALITIES["draft"]
    changed = evaluate.changed_settings(values, usual)
    assert changed.refine == bundle.Sampling(4, 2.0, 1.0, start=0.3)
    assert changed.views == bundle.Sampling(3, 1.0, 1.5)
    assert changed.picture == usual.picture and bundle.QUALITIES["draft"] is usual
    assert evaluate.changed_settings(parsed(), usual) is usual
    assert evaluate.parse_rounds(["2", "0", "2"]) == (0, 2)


@pytest.mark.parametrize(
    "wrong",
    ["--level=0", "--guidance=2", "--guidance=a,b", "--rounds=3", "--rounds=-1", "--rounds=", "--view_guidance=1",
     "--shard=2/2", "--shard=-1/2", "--shard=1", "--view_steps=2"],
)  # fmt: skip
def test_wrong_flags_are_refused_before_anything_is_drawn(wrong, tmp_path):
    model, out = FakeModel(), tmp_path / "out"
    with pytest.raises(InputError, match="expected"):
        if "guidance" in wrong:
            evaluate.changed_settings(parsed(wrong), bundle.QUALITIES["draft"])
        evaluated(model, wrong, f"--out={out}")
    assert not model.calls and not out.exists()


def test_weights_of_judges(tmp_path):
    (tmp_path / "vgg.safetensors").write_bytes(b"{} no weights")
    for flag, message in (
        (f"--clip={tmp_path}", "neither a config.json of CLIP"),
        (f"--lpips_weights={tmp_path / 'none.safetensors'}", "no such file"),
        (f"--lpips_weights={tmp_path / 'vgg.safetensors'}", "damaged"),
    ):
        with pytest.raises(InputError, match=message):
            evaluated(FakeModel(), flag, f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
