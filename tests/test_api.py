"""`im3d_jax` from Python: what callers get, that it is what the program writes, and what they are told meanwhile."""

import dataclasses
import io
import pathlib

import numpy as np
import pytest

import im3d_jax
from im3d_jax import AssetRequest, CaptureSettings, InputError
from im3d_jax.cli.main import main
from im3d_jax.errors import ImageError
from im3d_jax.generation.plan import PerceptualChoice
from im3d_jax.images.files import read_images
from im3d_jax.images.metrics import psnr
from im3d_jax.models.perceptual import Perceptual
from im3d_jax.pipelines import Pipeline
from splat import load, orbit_cameras
from tests.fake_model import PICTURE_EVALUATIONS, REFINE_EVALUATIONS, VIEW_EVALUATIONS, FakeModel, disc, two_levels
from tests.runs import write_capture


REQUEST = AssetRequest("a red mug", quality="draft")


@pytest.fixture(scope="module")
def made():
    """An asset, and the lines that were told while it was made."""
    lines = []
    asset = im3d_jax.generate(FakeModel().pipeline, REQUEST, progress=lambda event: lines.append(str(event)))
    return asset, lines


def test_the_program_writes_the_same(made, fake, tmp_path):
    asset, _ = made
    assert main(["generate", "--prompt=a red mug", "--quality=draft", f"--out={tmp_path / 'run'}"]) == 0
    asset.save(tmp_path / "asset.ply")
    assert (tmp_path / "asset.ply").read_bytes() == (tmp_path / "run/asset.ply").read_bytes()
    for name, images in (("views", asset.views), ("views_round2", asset.targets)):
        np.testing.assert_array_equal(read_images(sorted((tmp_path / "run" / name).iterdir())), images)


def test_what_an_asset_holds(made, tmp_path):
    asset, _ = made
    evaluations = PICTURE_EVALUATIONS + VIEW_EVALUATIONS + 2 * REFINE_EVALUATIONS
    assert asset.network_evaluations == evaluations and asset.seconds > 0
    assert asset.views.shape == asset.targets.shape == (16, 24, 24, 4) and len(asset.cameras) == 16
    renders = asset.render(asset.cameras)
    assert renders.shape == (16, 24, 24, 4) and renders.dtype == np.float32
    assert 0 <= renders.min() and renders.max() <= 1 and renders[..., 3].max() > 0.3
    assert asset.render(orbit_cameras(0.7, views=3, width=10, height=8)).shape == (3, 8, 10, 4)
    for suffix in ("ply", "spz", "splat", "glb"):
        asset.save(tmp_path / f"asset.{suffix}")
        assert len(load(tmp_path / f"asset.{suffix}")) == len(asset.gaussians)
    with pytest.raises(InputError, match=r"'.obj' is no format of gaussians; expected .ply"):
        asset.save(tmp_path / "asset.obj")
    with pytest.raises(InputError, match=r"cannot write .*none/asset.ply \(No such file or directory\)"):
        asset.save(tmp_path / "none/asset.ply")
    for wrong in (None, asset.cameras[:0]):
        with pytest.raises(InputError, match="expected one or more cameras"):
            asset.render(wrong)


def test_progress_is_readable_lines_with_an_estimate(made):
    _, lines = made
    assert all(line.strip() and "\n" not in line and not line.startswith("<") for line in lines)
    for stage in ("picture", "views", "elevation", "refinement 1", "asset"):
        assert any(line.startswith(f"{stage}: done in ") for line in lines), stage
    fits = [line for line in lines if line.startswith("fit to step") and " s left, loss " in line]
    assert fits and all(", about " in line for line in fits)
    assert not any(line.startswith(("turntable", "metrics", "video")) for line in lines), "in memory nobody looks"


def test_progress_may_print(capsys):
    im3d_jax.views(FakeModel().pipeline, "mug xyzzy", progress=print)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "ignored: xyzzy" and "picture: 1/1, picture" in shown


def test_views(tmp_path):
    model = FakeModel()
    drawn = im3d_jax.views(model.pipeline, image=disc(3, 7, 40), elevation_deg=20)
    assert model.calls == ["views", "orbit"] and drawn.network_evaluations == VIEW_EVALUATIONS
    assert drawn.images.shape == (16, 24, 24, 4) and len(drawn.cameras) == 16
    assert np.degrees(drawn.elevation) == pytest.approx(20)
    eyes = np.linalg.inv(np.asarray(drawn.cameras.world_to_camera))[:, :3, 3]
    np.testing.assert_allclose(np.arcsin(eyes[:, 2] / np.linalg.norm(eyes, axis=1)), drawn.elevation, atol=1e-4)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot write .*file \(File exists\)"):
        drawn.save(tmp_path / "file")
    drawn.save(tmp_path / "new")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == [f"{index:02d}.png" for index in range(16)]
    np.testing.assert_array_equal(read_images([tmp_path / "new" / name for name in names]), drawn.images)
    # In a folder the same are kept, and nothing is drawn twice.
    for _ in range(2):
        again = im3d_jax.views(model.pipeline, image=disc(3, 7, 40), elevation_deg=20, out=tmp_path / "run")
        np.testing.assert_array_equal(again.images, drawn.images)
        np.testing.assert_array_equal(again.cameras.world_to_camera, drawn.cameras.world_to_camera)
    assert model.calls == ["views", "orbit"] * 2


def test_a_list_of_requests_is_as_single_requests(made):
    requests = [REQUEST, dataclasses.replace(REQUEST, seed=1), dataclasses.replace(REQUEST, prompt="mug xyzzy")]
    model = FakeModel(rows=2)
    lines = []
    together = im3d_jax.generate(model.pipeline, requests, progress=lambda event: lines.append(str(event)))
    assert lines[0] == "requests[2]: ignored: xyzzy"
    assert model.batches == [2, 1] and len(together) == 3
    single = im3d_jax.generate(FakeModel().pipeline, requests[1])
    for one, alone in ((together[0], made[0]), (together[1], single)):
        np.testing.assert_allclose(one.views, alone.views, atol=1.01 / 255)
        np.testing.assert_allclose(one.gaussians.means, alone.gaussians.means, atol=1e-4)
        assert one.network_evaluations == alone.network_evaluations
    with pytest.raises(ImageError, match=r"requests\[1\]: image none.png: the file is missing"):
        im3d_jax.generate(model.pipeline, [REQUEST, AssetRequest(image="none.png")])
    for wrong in ({"out": "x"}, {"overwrite": True}, {"seed": 3}):
        with pytest.raises(InputError, match="a list of requests takes neither `out` nor fields"):
            im3d_jax.generate(model.pipeline, requests, **wrong)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda model: im3d_jax.generate(model, ["mug"]), r"requests\[0\]=mug: expected an AssetRequest"),
        (lambda model: im3d_jax.generate(model, (one for one in [REQUEST])), "expected a list, got a generator; write"),
        (lambda model: im3d_jax.views(model, [REQUEST]), "`views` takes one request"),
        (lambda model: im3d_jax.generate(None, "mug"), "model=None: expected what `load` returns"),
        (lambda model: im3d_jax.generate(model, "mug", progress=3), "progress=3: expected a function"),
        (lambda model: im3d_jax.generate(model, "mug", lpips=3), "lpips=3: expected lpips-j"),
        (lambda model: im3d_jax.generate(model, "mug", lpips=pathlib.Path("none.h5")), "none.h5: no such file"),
        (lambda model: im3d_jax.load(3), "model=3: expected `tiny`"),
        (lambda model: im3d_jax.load(pathlib.Path("none")), "model=none: no such folder or file"),
        (lambda model: im3d_jax.load(dtype="float99"), "dtype=float99: expected float32"),
        (lambda model: im3d_jax.reconstruct(3), "capture=3: expected a folder"),
        (lambda model: im3d_jax.reconstruct("run", quality="x"), "quality=x: expected one of"),
        (lambda model: im3d_jax.reconstruct("run", seed=-1), "seed=-1: expected a whole number"),
        (lambda model: im3d_jax.reconstruct("run", out="run"), "out=run is the folder to read"),
        (lambda model: CaptureSettings(steps=0), "steps=0: expected a whole number from 1 to 2147483647"),
        (lambda model: CaptureSettings(strategy="x"), "strategy=x: expected one of default, mcmc"),
        (lambda model: CaptureSettings(sh_degree=5), "sh_degree=5: expected a whole number from 0 to 4"),
        (lambda model: CaptureSettings(gaussians=99), "gaussians=99: expected a whole number from 100 to 10000000"),
        (lambda model: im3d_jax.reconstruct("run", downscale=1.5), "downscale=1.5: expected a whole number from 1"),
        (
            lambda model: im3d_jax.reconstruct("run", hold_out=-1),
            "hold_out=-1: expected a whole number from 0 to",
        ),
        (lambda model: CaptureSettings(steps=10**20), "steps=100000000000000000000: expected a whole number from 1 to"),
        (
            lambda model: CaptureSettings(steps=10**5000),
            "steps=a number of thousands of digits: expected",
        ),
        (
            lambda model: im3d_jax.reconstruct("run", hold_out=2**31),
            "hold_out=2147483648: expected",
        ),
        (lambda model: im3d_jax.load_capture("run", hold_out=True), "hold_out=True: expected a whole number"),
    ],
)
def test_wrong_arguments_are_one_line(call, message):
    with pytest.raises(InputError, match=message) as raised:
        call(FakeModel().pipeline)
    assert "\n" not in str(raised.value)


def test_a_folder_of_another_command_is_named(tmp_path):
    im3d_jax.views(FakeModel().pipeline, REQUEST, out=tmp_path)
    with pytest.raises(InputError, match=r"other settings \(what was 'views', now 'asset'\)"):
        im3d_jax.generate(FakeModel().pipeline, REQUEST, out=tmp_path)


def test_reconstruct_a_capture_and_a_run_folder(made, tmp_path):
    capture = write_capture(tmp_path)
    settings = CaptureSettings(steps=12, gaussians=192, sh_degree=1)
    asset = im3d_jax.reconstruct(capture, settings=settings)
    assert asset.views.shape == (4, 16, 16, 4) and asset.network_evaluations == 0 and len(asset.gaussians) > 20
    again = im3d_jax.reconstruct(im3d_jax.load_capture(capture), settings=settings, out=tmp_path / "out")
    asset.save(tmp_path / "asset.ply")
    assert (tmp_path / "asset.ply").read_bytes() == (tmp_path / "out/asset.ply").read_bytes()
    np.testing.assert_array_equal(again.targets, asset.views)

    # The second half of a run folder is a run without refinement.
    model = FakeModel()
    whole = im3d_jax.generate(model.pipeline, REQUEST, rounds=0, out=tmp_path / "run")
    half = im3d_jax.reconstruct(tmp_path / "run", model=model.pipeline, quality="draft")
    np.testing.assert_array_equal(half.gaussians.means, whole.gaussians.means)
    with pytest.raises(InputError, match="hold_out=4: .* is a run folder"):
        im3d_jax.reconstruct(tmp_path / "run", model=model.pipeline, hold_out=4)
    with pytest.raises(InputError, match="expected a quality instead of capture settings"):
        im3d_jax.reconstruct(tmp_path / "run", settings=settings, model=model.pipeline)


def test_features_that_a_caller_gives(made, tmp_path):
    """Other features than the model's own: another asset."""
    chosen = PerceptualChoice(Perceptual(two_levels, (np.ones(4, np.float32), np.zeros(4, np.float32))), "mine")
    other = im3d_jax.generate(FakeModel().pipeline, REQUEST, lpips=chosen)
    assert np.abs(np.asarray(other.gaussians.means)[:50] - np.asarray(made[0].gaussians.means)[:50]).max() > 1e-6
    # A folder could not tell them from others.
    with pytest.raises(InputError, match="the features 'mine' have no sha256"):
        im3d_jax.generate(FakeModel().pipeline, REQUEST, lpips=chosen, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fit_helps(made):
    """Twelve steps from a ball: nearer to the views than nothing at all."""
    asset, _ = made
    on_white = lambda rgba: rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]  # noqa: E731
    targets = on_white(asset.targets)
    fitted, nothing = on_white(asset.render(asset.cameras)), np.ones_like(targets)
    assert np.mean(psnr(fitted, targets)) > np.mean(psnr(nothing, targets)) + 0.5


def test_models_by_name(bundle):
    drawn = im3d_jax.views(bundle, "a red mug", quality="draft")
    assert drawn.images.shape == (4, 32, 32, 4)
    with pytest.raises(InputError, match="no such folder"):
        im3d_jax.views("nowhere/at/all/there", "a red mug")


def test_refusals_leave_no_folder(tmp_path):
    for call in (
        lambda out: im3d_jax.generate(Pipeline(FakeModel()), "mug", out=out),
        lambda out: im3d_jax.views(FakeModel().pipeline, image=tmp_path / "none.png", out=out),
        lambda out: im3d_jax.reconstruct(tmp_path / "none", out=out),
    ):
        with pytest.raises(InputError) as raised:
            call(tmp_path / "run")
        assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


def test_a_terminal_in_place_of_a_function():
    from im3d_jax.progress import ProgressPrinter

    stream = io.StringIO()
    im3d_jax.views(FakeModel().pipeline, "mug", progress=ProgressPrinter(stream))
    assert stream.getvalue().startswith("picture: done in ")
