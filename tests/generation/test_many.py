"""A file of prompts: what each line gets, that nothing finished is lost or made twice, and what failing lines cost."""

import contextlib
import io
import json

import jax
import numpy as np
import pytest

from im3d_jax import InputError, generate, views
from im3d_jax.atomic import hold
from im3d_jax.errors import OutOfMemory, WeightsError
from im3d_jax.generation.many import ManySettings, make_all
from im3d_jax.generation.prompt_files import read_lines
from im3d_jax.images.files import encode_png, read_image, read_images
from im3d_jax.pipelines import Drawn, Pipeline
from im3d_jax.pipelines.bundle import BundleModel
from im3d_jax.progress import ProgressPrinter
from im3d_jax.weights import load_bundle
from tests.fake_model import VIEW_EVALUATIONS, FakeModel, disc
from tests.tiny import FRAMES, SIDE, write_bundle


def written(folder, *objects):
    """A file of prompts, and a picture beside it that needs preparing."""
    folder.mkdir(exist_ok=True)
    picture = np.concatenate([disc(0, 5, 40), np.zeros((40, 8, 4), np.float32)], axis=1)
    (folder / "disc.png").write_bytes(encode_png(picture))
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps(one) for one in objects) + "\n")
    return folder / "prompts.jsonl"


def make(pipeline, file, *, progress=None, clock=None, **settings):
    """Makes a file's lines at draft quality, into ``out`` beside it; returns the summary."""
    progress = progress or ProgressPrinter(io.StringIO())
    lines = read_lines(file, quality="draft")
    clocks = {} if clock is None else {"clock": clock}
    return make_all(lines, pipeline, ManySettings(file.parent / "out", **settings), progress, **clocks)


def summary_of(file):
    return json.loads((file.parent / "out/summary.json").read_text())


class Stopping(ProgressPrinter):
    """Ctrl-C when the first object is finished."""

    @contextlib.contextmanager
    def stage(self, title):
        def report(done, total, note=""):
            raise KeyboardInterrupt

        yield report


MANY = (
    {"prompt": "a red mug", "seed": 1},
    {"image": "disc.png", "seed": 2},
    {"prompt": "a mug", "image": "disc.png", "seed": 3},
    {"prompt": "mug"},
    {"prompt": "a mug", "seed": 4},
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model = BundleModel(load_bundle(write_bundle(tmp_path_factory.mktemp("model"))))
    return Pipeline(model, model)


@pytest.fixture(scope="module")
def finished(bundle, tmp_path_factory):
    """(file, summary) of a run that was stopped after its first object and went on."""
    file = written(tmp_path_factory.mktemp("lines"), *MANY)
    with pytest.raises(KeyboardInterrupt):
        make(bundle, file, rows=2, progress=Stopping(io.StringIO()), facts={"command": "first"})
    before = summary_of(file)
    assert before["finished"] == before["drawn_by_this_run"] == 1 and before["command"] == "first"
    return file, make(bundle, file, rows=2, facts={"command": "second"})


def test_each_line_has_what_the_program_draws(finished, bundle):
    file, summary = finished
    counts = 0
    for line in read_lines(file, quality="draft"):
        run = file.parent / "out" / line.name
        alone = views(bundle, line.request)
        made = read_images(sorted((run / "views").iterdir()))
        assert made.shape == (FRAMES, SIDE, SIDE, 4) and (run / "sheet.png").is_file()
        # Equal to rounding: at most one grey level of few pixels.
        np.testing.assert_allclose(made, alone.images, atol=1.01 / 255)
        assert np.mean(made != alone.images) < 1e-3
        np.testing.assert_array_equal(made[0], read_image(run / "input.png"))
        record = json.loads((run / "run.json").read_text())
        assert record["network_evaluations"] == alone.network_evaluations and record["seed"] == line.request.seed
        assert record["settings"]["what"] == "views"
        counts += alone.network_evaluations
    assert summary["network_evaluations"] == counts
    assert (summary["lines"], summary["finished"], summary["drawn_by_this_run"]) == (5, 5, 4)
    assert summary["batch"] == 2 and summary["devices"] == 1 and summary["command"] == "second"
    assert summary["assets_a_minute"] > 0 and summary["assets_a_minute_after_first_batch"] > 0
    assert summary["failed"] == {}


def test_finished_lines_are_left_and_broken_ones_mended(finished, bundle):
    file, _ = finished
    out, told = file.parent / "out", io.StringIO()
    again = make(bundle, file, rows=2, progress=ProgressPrinter(told))
    assert again["finished"] == 5 and again["drawn_by_this_run"] == 0 and "nothing is left to draw" in told.getvalue()
    lost = out / "00004/views/02.png"
    content, others = lost.read_bytes(), (out / "00003/views/02.png").stat().st_mtime_ns
    lost.unlink()
    (out / "00001/sheet.png").unlink()
    summary = make(bundle, file, rows=2)
    assert summary["drawn_by_this_run"] == 2 and (out / "00001/sheet.png").is_file()
    assert lost.read_bytes() == content
    assert (out / "00003/views/02.png").stat().st_mtime_ns == others
    written(file.parent, *MANY[:4], {"prompt": "red mug"})
    with pytest.raises(InputError, match="line 5: .*other settings"):
        make(bundle, file, rows=2)
    written(file.parent, *MANY)


def test_assets_are_those_of_single_runs(tmp_path):
    model, told = FakeModel(rows=2), io.StringIO()
    file = written(tmp_path, {"prompt": "mug xyzzy", "seed": 3}, {"image": "disc.png"})
    summary = make(model.pipeline, file, what="asset", progress=ProgressPrinter(told))
    assert summary["assets"] is True and summary["finished"] == 2 and model.batches == [1, 1]
    assert "00001: ignored: xyzzy" in told.getvalue()
    for line in read_lines(file, quality="draft"):
        alone = tmp_path / f"alone{line.name}"
        generate(FakeModel().pipeline, line.request, out=alone)
        for name in ("asset.ply", "turntable.mp4", "views_round2/05.png", "cameras.json"):
            assert (tmp_path / "out" / line.name / name).read_bytes() == (alone / name).read_bytes(), name
        # A single run goes on there, and finds nothing to do.
        drawer = FakeModel()
        generate(drawer.pipeline, line.request, out=tmp_path / "out" / line.name)
        assert drawer.calls == []


def test_a_prompt_that_names_nothing_known_is_refused_before_anything_is_drawn(tmp_path):
    model = FakeModel()
    file = written(tmp_path, {"prompt": "mug"}, {"prompt": "plugh"})
    with pytest.raises(InputError, match="^line 2: fake knows no plugh$"):
        make(model.pipeline, file)
    assert model.calls == [] and not any(path.is_file() for path in (tmp_path / "out").rglob("*"))


class Failing(FakeModel):
    """Lines of some seeds fail.

    Args:
        seeds: Of the lines.
    """

    def __init__(self, *seeds, rows=2):
        super().__init__(rows)
        self.failing = seeds

    def draw_views(self, tasks, settings, **named):
        drawing = super().draw_views(tasks, settings, **named)
        rows = zip(tasks, drawing(), strict=True)
        return lambda: [
            WeightsError(f"no luck\nwith {task.seed}") if task.seed in self.failing else drawn for task, drawn in rows
        ]


def test_lines_that_fail_are_named_and_tried_again(tmp_path):
    file = written(tmp_path, *({"prompt": "mug", "seed": seed} for seed in range(4)))
    told = io.StringIO()
    with pytest.raises(InputError, match="^2 of 4 lines failed, .* try the failed ones again"):
        make(Failing(1, 2).pipeline, file, progress=ProgressPrinter(told))
    assert "line 2: no luck with 1\n" in told.getvalue() and "line 3: no luck with 2\n" in told.getvalue()
    summary = summary_of(file)
    assert summary["failed"] == {"00002": "no luck with 1", "00003": "no luck with 2"} and summary["finished"] == 2
    view = tmp_path / "out/00001/views/01.png"
    before = view.stat().st_mtime_ns
    with pytest.raises(InputError, match="2 of 4 lines failed"):
        make(Failing(1, 2).pipeline, file)
    summary = summary_of(file)
    assert summary["drawn_by_this_run"] == 0 and summary["assets_a_minute"] is None and len(summary["failed"]) == 2
    model = Failing()
    make(model.pipeline, file)
    summary = summary_of(file)
    assert summary["finished"] == 4 and summary["failed"] == {} and view.stat().st_mtime_ns == before
    # The first pictures of the two were kept.
    assert model.calls.count("picture") == 0 and model.batches == [2]


def test_a_picture_that_cannot_be_cut_out_costs_its_line_alone(tmp_path):
    """Another model draws first pictures, for lines without one alone."""

    class Painter(FakeModel):
        name, plain = "painter", False

        def draw_pictures(self, prompts, row_seeds, settings, **named):
            noise = np.random.default_rng(0).uniform(size=(SIDE, SIDE, 4)).astype(np.float32)
            noise[..., 3] = 1.0
            return lambda: [Drawn(disc(0, 1, SIDE) if self.plain else noise, 4) for _ in prompts]

    file = written(
        tmp_path, {"image": "disc.png", "seed": 3}, {"prompt": "mug"}, {"image": "disc.png", "prompt": "cup"}
    )
    painter = Painter()
    with pytest.raises(InputError, match="1 of 3 lines failed"):
        make(Pipeline(FakeModel(2), painter), file)
    assert "background" in summary_of(file)["failed"]["00002"] and summary_of(file)["finished"] == 2
    settings = json.loads((tmp_path / "out/00003/run.json").read_text())["settings"]
    assert settings["request"]["prompt"] == "cup" and "picture_model" not in settings
    (tmp_path / "out/00002/drawn.png").unlink()
    painter.plain = True
    assert make(Pipeline(FakeModel(2), painter), file)["finished"] == 3
    run = json.loads((tmp_path / "out/00002/run.json").read_text())
    assert run["settings"]["picture_model"]["sha256"] == "1" * 64 and run["network_evaluations"] == VIEW_EVALUATIONS + 4


def test_a_folder_that_cannot_be_written_ends_the_run_with_its_line(tmp_path):
    """The others' failures are their own; a full disk is not."""
    file = written(tmp_path, *({"prompt": "mug", "seed": seed} for seed in range(3)))

    class Blocking(FakeModel):
        def find_orbit(self, views, settings, **named):
            if named["seed"] == 0:
                raise WeightsError("no cameras")
            if named["seed"] == 1:
                # Where the cameras' file should be there is a folder that holds something.
                (tmp_path / "out/00002/cameras.json/full").mkdir(parents=True)
            return super().find_orbit(views, settings, **named)

    with pytest.raises(InputError, match="^line 2: cannot write .*cameras.json"):
        make(Blocking(1).pipeline, file)
    summary = summary_of(file)
    assert summary["failed"] == {"00001": "no cameras"} and summary["finished"] == 0


def test_damaged_records_of_finished_lines_are_mended(tmp_path):
    file = written(tmp_path, *({"prompt": "mug", "seed": seed} for seed in range(3)))
    make(FakeModel(2).pipeline, file)
    one, two, three = (tmp_path / f"out/{number:05d}" for number in (1, 2, 3))
    whole = {path: path.read_bytes() for path in tmp_path.rglob("*.json") if path.name in ("run.json", "stages.json")}
    for path in (one / "run.json", two / "state/stages.json", three / "timings.json"):
        path.write_bytes(path.read_bytes()[:-20])
    model = FakeModel(2)
    assert make(model.pipeline, file)["finished"] == 3
    assert model.calls.count("views") == 1, "the second line alone is drawn again"
    assert {path: path.read_bytes() for path in whole} == whole


def test_a_second_process_on_the_same_lines_is_refused(tmp_path):
    file = written(tmp_path, {"prompt": "mug"})
    (tmp_path / "out").mkdir()
    with hold(tmp_path / "out", ".lock-summary.json"):
        with pytest.raises(InputError, match="another process .* makes these lines in .*out; wait for it"):
            make(FakeModel().pipeline, file)
        # Other shards are made beside it.
        assert make(FakeModel().pipeline, file, summary="summary_1_of_2.json")["finished"] == 1
    assert not list((tmp_path / "out").glob(".lock*"))


class Clock:
    """Seconds that drawing and reporting take."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_the_rate_leaves_out_the_first_batch(tmp_path):
    clock = Clock()

    class Slow(FakeModel):
        """The first batch takes 100 s, as it is compiled, each other one 10."""

        def draw_views(self, tasks, settings, **named):
            drawing = super().draw_views(tasks, settings, **named)

            def finish():
                clock.now += 10 if clock.now else 100
                return drawing()

            return finish

    objects = [{"prompt": "mug", "seed": seed} for seed in (3, 4, 5)]
    summary = make(Slow(1).pipeline, written(tmp_path / "three", *objects), clock=clock)
    assert summary["seconds"] == 120 and summary["assets_a_minute"] == 1.5
    assert summary["assets_a_minute_after_first_batch"] == 6
    # With one batch alone there is no such rate.
    clock.now = 0.0
    summary = make(Slow(2).pipeline, written(tmp_path / "two", *objects[:2]), clock=clock)
    assert summary["seconds"] == 100 and summary["assets_a_minute"] == 1.2
    assert summary["assets_a_minute_after_first_batch"] is None


@pytest.mark.parametrize("rows", [1, 2])
def test_memory_that_runs_out_is_one_line(tmp_path, rows):
    class Full(FakeModel):
        memory = "24gb" if rows == 1 else None

        def draw_views(self, tasks, settings, **named):
            if tasks[0].seed < 5:
                return super().draw_views(tasks, settings, **named)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying\nto allocate 9 bytes.")

    file = written(tmp_path, *({"prompt": "mug", "seed": seed} for seed in (3, 4, 5)))
    with pytest.raises(OutOfMemory) as raised:
        make(Full(rows).pipeline, file)
    line = str(raised.value)
    assert "\n" not in line and "the device is out of memory" in line and "finished work is kept" in line
    assert ("--memory=24gb" in line, "smaller --batch than 2" in line) == (rows == 1, rows == 2)
    # The views that were drawn before are not lost.
    assert make(Failing(rows=rows).pipeline, file)["finished"] == 3


def test_wrong_lines_are_refused_before_anything_is_drawn(tmp_path):
    file = written(tmp_path, {"image": "disc.png"}, {"prompt": "mug"})
    with pytest.raises(InputError, match="line 2: .*starts from a picture"):
        make(Pipeline(FakeModel()), file)
    (tmp_path / "disc.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="line 1: .*not a readable picture"):
        make(FakeModel().pipeline, file)
    assert not (tmp_path / "out/summary.json").exists()
