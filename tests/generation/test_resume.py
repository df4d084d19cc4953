"""Runs that are stopped anywhere, and runs in memory: the bytes of a run that was left alone."""

import io

import pytest

import im3d_jax
from im3d_jax.generation.captures import CaptureSettings
from im3d_jax.progress import ProgressPrinter
from splat.io import load_ply
from tests.fake_model import FakeModel
from tests.runs import results, write_capture


class StopOnce:
    """A progress function that raises Ctrl-C at the first event of a kind that it has not raised at yet."""

    def __init__(self, kind):
        self.kind, self.stops, self.lines = kind, [], []

    def __call__(self, event):
        self.lines.append(str(event))
        if not event.stage:
            return
        kind = self.kind(event)
        if kind is not None and kind not in self.stops:
            self.stops.append(kind)
            raise KeyboardInterrupt


def until_done(run, progress):
    """Repeats a run that is interrupted; returns its result."""
    while True:
        try:
            return run(progress)
        except KeyboardInterrupt:
            assert len(progress.stops) < 60


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing stopped, and its asset."""
    out = tmp_path_factory.mktemp("whole")
    return out, im3d_jax.generate(FakeModel().pipeline, "a red mug", quality="draft", out=out)


def test_a_run_stopped_inside_and_after_every_stage(whole, tmp_path):
    model = FakeModel()
    progress = StopOnce(lambda event: (event.stage, event.finished))
    until_done(
        lambda progress: im3d_jax.generate(
            model.pipeline, "a red mug", quality="draft", out=tmp_path / "cut", progress=progress
        ),
        progress,
    )
    finished = {stage for stage, end in progress.stops if end}
    assert {"picture", "views", "elevation", "video and sheet", "refinement 1", "refinement 2"} <= finished
    assert {"asset", "turntable", "metrics"} <= finished and sum("fit to step" in stage for stage in finished) == 3
    inside = {stage for stage, end in progress.stops if not end}
    assert {"picture", "views", "elevation", "refinement 1", "refinement 2"} <= inside
    assert sum("fit to step" in stage for stage in inside) == 3
    assert results(tmp_path / "cut") == results(whole[0])
    assert model.calls.count("views") == 2, "once stopped, once finished"


def test_a_fit_goes_on_inside_a_part(whole, tmp_path):
    """Stopped at every segment, it resumes where the last segment ended."""
    request = {"quality": "draft", "rounds": 0}
    alone = tmp_path / "alone"
    im3d_jax.generate(FakeModel().pipeline, "a red mug", out=alone, **request)
    # A stop at the end of a segment comes before the segment is kept: the run goes on from the one before.
    progress = StopOnce(lambda event: event.done if "fit" in event.stage and event.done > 1 else None)
    run = lambda progress: im3d_jax.generate(  # noqa: E731
        FakeModel().pipeline, "a red mug", out=tmp_path / "cut", progress=progress, **request
    )
    with pytest.raises(KeyboardInterrupt):
        run(progress)
    until_done(run, progress)
    assert any(line.startswith("resuming at step ") for line in progress.lines)
    assert any(" of 12: " in line and "holds the fit so far" in line for line in progress.lines)
    assert results(tmp_path / "cut") == results(alone)
    assert not list((tmp_path / "cut/state").glob("*.partial.npz"))


def test_memory_and_folder_make_the_same_asset(whole, tmp_path):
    out, kept = whole
    asset = im3d_jax.generate(FakeModel().pipeline, "a red mug", quality="draft")
    asset.save(tmp_path / "asset.ply")
    assert (tmp_path / "asset.ply").read_bytes() == (out / "asset.ply").read_bytes()
    assert asset.network_evaluations == kept.network_evaluations and asset.seconds > 0
    assert (asset.views == kept.views).all() and (asset.targets == kept.targets).all()


def test_a_capture_stopped_at_steps(tmp_path):
    capture = write_capture(tmp_path)
    settings = CaptureSettings(steps=12, gaussians=192, sh_degree=1)
    im3d_jax.reconstruct(capture, settings=settings, out=tmp_path / "whole")

    def run(stop_at, **more):
        """Lines of a run that is stopped at so many reports of its fit."""
        lines, reports = [], []

        def progress(event):
            lines.append(str(event))
            if event.stage.startswith("fit") and not event.finished:
                reports.append(event)
                if len(reports) == stop_at:
                    raise KeyboardInterrupt

        try:
            im3d_jax.reconstruct(capture, settings=settings, out=tmp_path / "cut", progress=progress, **more)
        except KeyboardInterrupt:
            assert len(reports) == stop_at
        return lines

    # A report comes before its step is kept.
    for kept in (3, 6):
        assert f"stopped at step {kept} of 12" in run(4)[-1]
        assert len(load_ply(tmp_path / "cut/asset.ply")) > 50, "what is there is exported"
    # Another fit in the same folder does not go on from this one.
    assert not any("resuming" in line for line in run(None, seed=1))
    assert results(tmp_path / "cut")["asset.ply"] != results(tmp_path / "whole")["asset.ply"]
    assert "stopped at step 3 of 12" in run(4, overwrite=True)[-1]
    # A state that is damaged since begins again.
    kept = tmp_path / "cut/state/fit0.partial.npz"
    damaged = bytearray(kept.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    kept.write_bytes(damaged)
    lines = run(4)
    assert "the fit so far is damaged: its part begins again" in lines and "stopped at step 3 of 12" in lines[-1]
    assert "resuming at step 3" in run(None)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_bars_of_a_terminal_see_a_whole_run(tmp_path):
    """A `Progress` in place of a function."""
    stream = io.StringIO()
    im3d_jax.views(FakeModel().pipeline, "mug", out=tmp_path, progress=ProgressPrinter(stream))
    assert stream.getvalue().splitlines()[0].startswith("picture: done in")
