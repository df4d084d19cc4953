"""Fits beside gsplat's: the lines, what is refused, and gsplat's trainer with a stand-in for its CUDA kernels."""

import functools
import json

import jax
import numpy as np
import pytest
from absl import flags

from experiments import compare_fits
from im3d_jax.cli import common
from im3d_jax.cli.errors import UserError
from im3d_jax.data.captures import load_capture
from im3d_jax.reconstruction import initial
from tests.cli.runs import write_capture


STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("capture"))


def parse(*given):
    values = flags.FlagValues()
    compare_fits.define_flags(values)
    values(["compare_fits", *given])
    return values


@pytest.fixture
def lines(monkeypatch, capsys, data, tmp_path):
    """Runs the program on the capture; returns what it prints."""
    monkeypatch.setattr(common, "start_jax", lambda: None)

    def do(*given):
        small = f"--data={data}", f"--steps={STEPS}", "--gaussians=192", "--sh_degree=0"
        compare_fits.run(parse(*small, f"--out={tmp_path / 'lines.jsonl'}", *given))
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return do


def test_a_line_for_every_seed_and_run(lines, data, tmp_path):
    found = lines("--runs=ours", "--seeds=0,3")
    assert [(line["seed"], line["run"]) for line in found] == [(0, "ours"), (3, "ours")]
    assert found == [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    for line in found:
        assert line["data"] == data.name and (line["views"], line["width"], line["height"]) == (4, 16, 16)
        assert line["use_masks"] and line["steps"] == STEPS and line["device"] and line["jax"]
        assert 0 < line["start_s"] < line["first_steps_s"] <= line["seconds"]
        assert line["mean_ms_per_step"] == pytest.approx(1e3 * line["seconds"] / STEPS, rel=1e-2)
        assert 0 < line["gaussians"] <= line["rows"] == 192
        assert 0 < line["pairs"] <= line["pair_capacity"]
        assert line["worst_test_psnr"] <= line["test_psnr"] + 1e-3 and line["test_ssim"] <= 1
    assert found[0]["test_psnr"] != found[1]["test_psnr"]
    (again,) = lines("--runs=ours", "--seeds=0,3", "--shard=1/2")
    assert again["seed"] == 3 and again["test_psnr"] == found[1]["test_psnr"]


def test_shards_share_the_fits_seed_by_seed():
    given = "--seeds=0,7", "--runs=gsplat,mcmc"
    every = [(0, "gsplat"), (0, "mcmc"), (7, "gsplat"), (7, "mcmc")]
    assert compare_fits.parse_fits(parse(*given)) == every
    assert compare_fits.parse_fits(parse(*given, "--shard=1/3")) == every[1::3]


def test_flags_reach_the_fit(lines, data, monkeypatch):
    def fit_ours(capture, config, seed, report):
        seen.append((capture.images, config))
        return {}, lambda cameras: np.ones((len(cameras), 16, 16, 4), np.float32)

    seen = []
    monkeypatch.setattr(compare_fits, "fit_ours", fit_ours)
    (line,) = lines("--runs=ours", "--random_background", "--mask_weight=0.5")
    (images, config), true = seen.pop(), load_capture(data).images
    assert config.background == "random" and config.mask_weight == 0.5 and config.strategy.name == "default"
    assert (images == true).all() and line["use_masks"]
    (line,) = lines("--runs=mcmc", "--nouse_masks")
    images, config = seen.pop()
    assert config.background == "white" and config.mask_weight == 0 and config.strategy.name == "mcmc"
    assert (images[..., 3] == 1).all() and (true[..., 3] == 0).any() and not line["use_masks"]
    np.testing.assert_allclose(images[..., :3], true[..., :3] * true[..., 3:] + 1 - true[..., 3:], atol=1e-6)
    # White pictures of a square of 64 among 256 pixels.
    square = np.mean((1 - np.array([179, 102, 51]) / 255) ** 2)
    assert line["test_psnr"] == pytest.approx(-10 * np.log10(square / 4), abs=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--runs=ours,theirs"], "--runs=ours,theirs: expected some of ours, mcmc, gsplat"),
        (["--runs="], "--runs=: expected"),
        (["--seeds=0,x"], "--seeds=0,x: expected whole numbers"),
        (["--seeds=99999999999999999999"], "expected whole numbers of at most 9 digits"),
        (["--gsplat_start=cube"], "--gsplat_start changes nothing in --runs=ours"),
        (["--runs=gsplat", "--mask_weight=1"], "--mask_weight changes nothing in --runs=gsplat"),
        (["--shard=2/2"], "--shard=2/2: expected i/n"),
        (["--data=none"], "none: no such folder"),
        (["--downscale=2"], "--downscale=2 leaves 8x8 pixels"),
        (["--nouse_masks", "--mask_weight=1"], "--nouse_masks takes the alpha away"),
        (["--out=none/lines.jsonl"], "No such file or directory: 'none/lines.jsonl'"),
    ],
)
def test_wrong_flags_end_with_one_line_and_code_2(given, message, data, monkeypatch, capsys):
    monkeypatch.setattr(common, "start_jax", lambda: None)
    monkeypatch.setattr(compare_fits, "fit_ours", lambda *_: pytest.fail("fitted"))
    monkeypatch.setattr(compare_fits.flags, "FLAGS", parse(f"--data={data}", "--runs=ours", *given))
    assert compare_fits.main(["compare_fits"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and message in printed.err and not printed.out


def test_flags_that_absl_refuses_end_with_code_2_too(monkeypatch, capsys):
    values = flags.FlagValues()
    compare_fits.define_flags(values)
    monkeypatch.setattr(compare_fits.flags, "FLAGS", values)
    for wrong in ("--stepps=3", "--steps=0", "--sh_degree=5", "--gsplat_start=ball", "--mask_weight=-1"):
        with pytest.raises(SystemExit) as ended:
            compare_fits.parse_flags(["compare_fits", wrong])
        assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert compare_fits.main(["compare_fits", "more"]) == 2 and "unexpected arguments: more" in capsys.readouterr().err


def test_a_capture_without_held_out_views_is_refused(tmp_path):
    write_capture(tmp_path)
    (tmp_path / "transforms_test.json").unlink()
    with pytest.raises(UserError, match="no held-out views to judge by; expected transforms_test.json"):
        compare_fits.open_capture(parse(f"--data={tmp_path}"), False)


def test_packages_that_gsplat_needs_are_named(monkeypatch):
    installed = set()
    monkeypatch.setattr(compare_fits.importlib.util, "find_spec", lambda name: name if name in installed else None)
    with pytest.raises(UserError, match="--runs=gsplat: torch is not installed here"):
        compare_fits.check_gsplat()
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    installed.add("torch")
    with pytest.raises(UserError, match="--runs=gsplat: gsplat is not installed here"):
        compare_fits.check_gsplat()
    installed.add("gsplat")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--runs=gsplat: PyTorch finds no CUDA device"):
        compare_fits.check_gsplat()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="neither fused_ssim nor pytorch_msssim is installed"):
        compare_fits.check_gsplat()
    installed.add("pytorch_msssim")
    compare_fits.check_gsplat()


def spots(
    means, quats, scales, opacities, colors, viewmats, intrinsics, width, height, *, sh_degree, packed, backgrounds
):
    """A stand-in for gsplat.rasterization on CPUs: round spots averaged with the background, not composited."""
    import torch

    assert not packed and 0 <= sh_degree and quats.shape == (len(means), 4)
    local = torch.einsum("vij,nj->vni", viewmats[:, :3, :3], means) + viewmats[:, None, :3, 3]
    image = torch.einsum("vij,vnj->vni", intrinsics, local)
    means2d = image[..., :2] / image[..., 2:].clamp_min(0.1)
    radii = intrinsics[:, 0, 0][:, None] * scales.mean(-1)[None] / local[..., 2].clamp_min(0.1) + 0.3
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    away = (means2d[:, :, None, None] - torch.stack([x, y], -1)).square().sum(-1) / radii[..., None, None].square()
    weights = opacities[:, None, None] * torch.exp(-0.5 * away)
    tint = 0.5 + 0.28209479 * colors[:, 0]
    drawn = torch.einsum("vnhw,nc->vhwc", weights, tint) + 0.05 * backgrounds[:, None, None]
    info = {"means2d": means2d, "radii": torch.ones_like(means2d).int(), "gaussian_ids": None}
    info |= {"width": width, "height": height, "n_cameras": len(viewmats)}
    return drawn / (weights.sum(1)[..., None] + 0.05), weights, info


@pytest.fixture
def trainer(monkeypatch):
    """gsplat's trainer on a CPU, its density control from step 10 and its resets due at 25 and 50; notes those."""
    for package in ("torch", "gsplat", "pytorch_msssim"):
        pytest.importorskip(package)
    from gsplat.strategy import default, ops

    from experiments import gsplat_fit

    def noted(whose):
        def reset_opa(params, **more):
            ops.reset_opa(params=params, **more)
            resets.append((whose, params["opacities"].max().sigmoid().item()))

        return reset_opa

    resets = []
    periods = {"refine_start_iter": 10, "refine_every": 20, "reset_every": 25, "grow_grad2d": 1e-6}
    monkeypatch.setattr(gsplat_fit, "DefaultStrategy", functools.partial(default.DefaultStrategy, **periods))
    monkeypatch.setattr(gsplat_fit.gsplat, "rasterization", spots)
    monkeypatch.setattr(default, "reset_opa", noted("theirs"))
    monkeypatch.setattr(gsplat_fit, "reset_opa", noted("ours"))
    on_cpu = functools.partial(gsplat_fit.fit_gsplat, device="cpu")
    monkeypatch.setattr(gsplat_fit, "fit_gsplat", on_cpu)
    monkeypatch.setattr(compare_fits, "check_gsplat", lambda: None)
    return resets


@pytest.mark.parity
def test_gsplats_trainer_fits_the_views(lines, trainer):
    (first,), (last,) = (lines("--runs=gsplat", f"--steps={steps}") for steps in (1, 60))
    assert last["run"] == "gsplat" and last["loss_ssim"] == "pytorch_msssim" and last["start"] == "hull"
    assert last["device"] and last["torch"] and last["gsplat"] and last["views"] == 4
    assert last["mean_ms_per_step"] == pytest.approx(1e3 * last["seconds"] / 60, rel=1e-2)
    assert first["gaussians"] == 192 < last["gaussians"]
    assert first["test_psnr"] + 4 < last["test_psnr"] and first["train_psnr"] + 4 < last["train_psnr"]
    (again,) = lines("--runs=gsplat", "--steps=60")
    assert again["test_psnr"] == last["test_psnr"]
    assert not trainer


@pytest.mark.parity
def test_only_the_flag_resets_gsplats_opacities(lines, trainer):
    (line,) = lines("--runs=gsplat", "--steps=60")
    assert not line["reset"] and trainer == []
    (line,) = lines("--runs=gsplat", "--steps=60", "--gsplat_reset")
    assert line["reset"] and trainer == [("ours", pytest.approx(0.01, rel=1e-3))] * 2


@pytest.mark.parity
def test_starts_of_gsplat(data):
    pytest.importorskip("torch")
    pytest.importorskip("gsplat")
    from experiments import gsplat_fit

    capture, rng = load_capture(data), np.random.default_rng(0)
    points, colours = gsplat_fit.start_points("cube", capture, 192, 0, rng)
    assert points.shape == colours.shape == (100_000, 3) and points.dtype == colours.dtype == np.float32
    np.testing.assert_allclose([points.min(), points.max(), colours.min(), colours.max()], [-1.3, 1.3, 0, 1], atol=1e-3)
    points, colours = gsplat_fit.start_points("hull", capture, 192, 0, rng)
    ours = initial.seen_points(jax.random.key(0), capture.cameras, 192, capture.images)
    np.testing.assert_array_equal(points, ours)
    assert len(points) == 192 and (colours == 0.5).all()
