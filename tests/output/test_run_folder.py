"""Run folders: what is refused, what is skipped, what is redone, and that files are whole or absent."""

import functools
import json
import os
import re

import pytest

from im3d_jax.output.run_folder import STAGES_FILE, RunFolder, RunFolderError, StageFiles


def two_stages(folder, calls, *, fail=False):
    """`first` writes a.txt, `second` doubles it into b.txt."""

    def first(files):
        calls.append("first")
        files.write("a.txt", folder.settings["text"].encode())
        return 3

    def second(files):
        calls.append("second")
        files.write("deep/b.txt", 2 * (folder / "a.txt").read_bytes())
        if fail:
            raise KeyboardInterrupt
        return 4

    folder.start()
    folder.stage("first", first)
    folder.stage("second", second, inputs=["a.txt"], settings={"factor": 2})


def contents(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "timings.json"
    }


def test_finished_stages_are_skipped(tmp_path):
    calls = []
    for _ in range(2):
        two_stages(RunFolder(tmp_path / "run", {"text": "x", "seed": 5}), calls)
    assert calls == ["first", "second"]
    run = json.loads((tmp_path / "run/run.json").read_text())
    assert run["network_evaluations"] == 7 and run["seed"] == 5 and run["settings"]["text"] == "x"
    assert set(json.loads((tmp_path / "run/timings.json").read_text())) == {"first", "second"}


def test_interrupted_run_ends_like_an_uninterrupted_one(tmp_path):
    settings = {"text": "x", "seed": 0}
    calls = []
    with pytest.raises(KeyboardInterrupt):
        two_stages(RunFolder(tmp_path / "cut", settings), calls, fail=True)
    assert json.loads((tmp_path / "cut/run.json").read_text())["network_evaluations"] == 3
    two_stages(RunFolder(tmp_path / "cut", settings), calls)
    assert calls == ["first", "second", "second"]
    two_stages(RunFolder(tmp_path / "whole", settings), [])
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["a.txt", "deep/b.txt"])
def test_changed_and_missing_files_are_made_again(tmp_path, name):
    calls = []
    two_stages(RunFolder(tmp_path, {"text": "x"}), calls)
    before = contents(tmp_path)
    for damage in (lambda file: file.write_text("other"), lambda file: file.unlink()):
        damage(tmp_path / name)
        two_stages(RunFolder(tmp_path, {"text": "x"}), calls)
        assert contents(tmp_path) == before
    # Made again with the same content, the first stage does not invalidate the second.
    assert calls.count("second") == (1 if name == "a.txt" else 3)


def test_changed_inputs_invalidate_what_follows(tmp_path):
    folder = RunFolder(tmp_path, {})
    folder.start()
    for text in ("x", "y"):
        first = functools.partial(lambda files, text: files.write("a", text.encode()), text=text)
        folder.stage("first", first, settings={"text": text})
        copy = (tmp_path / "a").read_bytes()
        folder.stage("second", lambda files, copy=copy: files.write("b", copy), inputs=["a"])
    assert (tmp_path / "b").read_text() == "y"


def test_other_settings_are_refused_and_overwritten_on_demand(tmp_path):
    two_stages(RunFolder(tmp_path, {"text": "x"}), [])
    (tmp_path / "views").mkdir()
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(RunFolderError, match="other settings.*'x'.*'y'.*--overwrite"):
        RunFolder(tmp_path, {"text": "y"})
    folder = RunFolder(tmp_path, {"text": "y"}, overwrite=True)
    assert (tmp_path / "a.txt").exists() and (tmp_path / "views").exists(), "nothing goes before the start"
    folder.start()
    assert folder.network_evaluations == 0 and not (tmp_path / "views").exists()
    assert (tmp_path / "mine.txt").read_text() == "keep", "only a run's own results may go"


def test_what_was_given_is_told_before_what_follows_from_it(tmp_path):
    settings = {"fit": {"densify_every": 1, "steps": 30}, "steps": 30, "data_sha256": "a"}
    two_stages(RunFolder(tmp_path, {"text": "x", **settings}), [])
    for change, told in (
        ({"steps": 40, "data_sha256": "b", "fit": {"densify_every": 2, "steps": 40}}, "(steps was 30, now 40;"),
        ({"data_sha256": "b"}, "(data_sha256 was 'a', now 'b')"),
        ({"fit": {"densify_every": 2, "steps": 30}}, "(fit.densify_every was 1, now 2)"),
    ):
        with pytest.raises(RunFolderError, match=re.escape(told)):
            RunFolder(tmp_path, {"text": "x", **settings, **change})


def test_long_settings_are_shown_in_part(tmp_path):
    long = "a red mug " * 40
    two_stages(RunFolder(tmp_path, {"text": long}), [])
    for other, words in ((long + "!", "red mug !'"), ("b" * 400, "'bbbb"), (None, "now None")):
        with pytest.raises(RunFolderError) as raised:
            RunFolder(tmp_path, {"text": other})
        assert words in str(raised.value) and len(str(raised.value).replace(str(tmp_path), "")) < 240


def test_foreign_results_are_refused(tmp_path):
    (tmp_path / "asset.ply").write_text("precious")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder(tmp_path, {})
    assert (tmp_path / "asset.ply").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", {"settings": [1]}),
        ("state/stages.json", {"first": 3}),
        ("state/stages.json", {"first": {"key": "x", "outputs": {"../a": None}, "network_evaluations": 1}}),
        ("state/stages.json", {"first": {"key": "x"}}),
        ("timings.json", {"first": "long"}),
    ],
)
def test_damaged_records_are_mended(tmp_path, name, content):
    """Cut short, or of another shape: at most the stages are done again."""
    settings = {"text": "x", "seed": 0}
    two_stages(RunFolder(tmp_path, settings), [])
    whole, calls = contents(tmp_path), []
    for damage in (json.dumps(content), (tmp_path / name).read_text()[:-9], ""):
        (tmp_path / name).write_text(damage)
        two_stages(RunFolder(tmp_path, settings), calls)
        assert contents(tmp_path) == whole
        assert all(type(seconds) is float for seconds in json.loads((tmp_path / "timings.json").read_text()).values())
    assert len(calls) == (6 if name == STAGES_FILE else 0), "the stages tell their run too"
    # Not even damage lets one run write over another.
    if name != "timings.json":
        (tmp_path / name).write_text("{")
        with pytest.raises(RunFolderError, match="other settings"):
            RunFolder(tmp_path, {"text": "y", "seed": 0})


def test_metrics_cut_short_are_made_again(tmp_path):
    folder = RunFolder(tmp_path, {})
    folder.start()
    content = b'{"seconds": 1, "psnr": 20.5}'
    work = functools.partial(StageFiles.write, name="metrics.json", content=content, volatile=True)
    assert folder.stage("metrics", work) and not folder.stage("metrics", work)
    for damage in ('{"seconds"', "{}", '{"seconds": 1}', '{"seconds": 1, "psnr": 20.6}', '{"psnr": 20.5}', "[]",
                   '{"seconds": "1", "psnr": 20.5}', '{"seconds": 1, "psnr": NaN}'):  # fmt: skip
        (tmp_path / "metrics.json").write_text(damage)
        again = RunFolder(tmp_path, {})
        folder.close()
        again.start()
        assert again.stage("metrics", work) and (tmp_path / "metrics.json").read_bytes() == content
        again.close()


def test_records_without_a_hash_ask_for_readable_files(tmp_path):
    """Those of the version before, of files that hold seconds."""
    folder = RunFolder(tmp_path, {})
    folder.start()
    work = functools.partial(StageFiles.write, name="metrics.json", content=b'{"seconds": 1}', volatile=True)
    folder.stage("metrics", work)
    folder.close()
    records = json.loads((tmp_path / STAGES_FILE).read_text())
    records["metrics"]["outputs"]["metrics.json"] = None
    (tmp_path / STAGES_FILE).write_text(json.dumps(records))
    for content, repeated in (("{}", False), ("{", True)):
        (tmp_path / "metrics.json").write_text(content)
        again = RunFolder(tmp_path, {})
        again.start()
        assert again.stage("metrics", work) == repeated
        again.close()


def test_folders_of_the_version_before_go_on(tmp_path):
    """Their stages do not tell the run."""
    calls = []
    two_stages(RunFolder(tmp_path, {"text": "x"}), [])
    records = json.loads((tmp_path / STAGES_FILE).read_text())
    for record in records.values():
        del record["run"]
    (tmp_path / STAGES_FILE).write_text(json.dumps(records))
    two_stages(RunFolder(tmp_path, {"text": "x"}), calls)
    assert calls == []


def test_unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write"):
        RunFolder(tmp_path / "file", {})
    with pytest.raises(RunFolderError, match="cannot write"):
        RunFolder(tmp_path / "file" / "below", {})
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(RunFolderError, match="cannot write"):
            RunFolder(tmp_path / "closed", {})


def test_files_appear_whole_or_not_at_all(tmp_path):
    folder = RunFolder(tmp_path, {})
    folder.start()

    def half(path):
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.stage("cut", lambda files: files.save("a.bin", half))
    assert not (tmp_path / "a.bin").exists() and not list(tmp_path.glob(".partial*"))
    assert not folder.finished("cut")


def test_settings_without_results_may_change(tmp_path):
    """A run that failed before its first result (a mistyped model, say) must not block its correction."""
    RunFolder(tmp_path, {"model": "tyni"}).start()
    RunFolder(tmp_path, {"model": "tiny"}).start()
    assert json.loads((tmp_path / "run.json").read_text())["settings"] == {"model": "tiny"}


def test_seconds_do_not_enter_the_record(tmp_path):
    for name, seconds in (("a", b'{"seconds": 1.0}'), ("b", b'{"seconds": 2.0}')):
        folder = RunFolder(tmp_path / name, {})
        folder.start()
        folder.stage("metrics", functools.partial(StageFiles.write, name="m", content=seconds, volatile=True))
        assert folder.finished("metrics")
    assert (tmp_path / "a/state/stages.json").read_bytes() == (tmp_path / "b/state/stages.json").read_bytes()
    (tmp_path / "b/m").unlink()
    assert not folder.finished("metrics")


def test_leftovers_of_a_killed_process_go(tmp_path):
    (tmp_path / "views").mkdir()
    (tmp_path / "views/.partial-03.png").write_text("ha")
    (tmp_path / ".partial-run.json").write_text("{")
    (tmp_path / "run.json").write_text('{"settings": {}}')
    mine = tmp_path / "downloads/film.partial-1"  # the folder may hold more than the run
    mine.parent.mkdir()
    mine.write_text("half a film")
    RunFolder(tmp_path, {}).start()
    assert not list((tmp_path / "views").iterdir()) and not (tmp_path / ".partial-run.json").exists()
    assert mine.read_text() == "half a film"
