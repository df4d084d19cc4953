"""Fits beside gsplat's: the lines, what is refused, and gsplat's trainer with a stand-in for its CUDA kernels."""

import json

import jax
import numpy as np
import pytest
from absl import flags

from experiments.benchmarks import captures
from im3d_jax.data.captures import load_capture
from im3d_jax.errors import InputError
from im3d_jax.reconstruction import initial
from tests.runs import write_capture


STEPS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_capture(tmp_path_factory.mktemp("capture"))


def parse(*given):
    values = flags.FlagValues()
    captures.define_flags(values)
    values(["captures", *given])
    return values


def test_a_line_for_every_seed_and_run(data, tmp_path, capsys):
    def lines(*given):
        small = "--runs=ours", "--seeds=0,3", f"--steps={STEPS}", "--gaussians=192", "--sh_degree=0"
        assert captures.PROGRAM([f"--data={data}", f"--out={tmp_path / 'lines.jsonl'}", *small, *given]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    found = lines()
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
    (again,) = lines("--shard=1/2")
    assert again["seed"] == 3 and again["test_psnr"] == found[1]["test_psnr"]


def test_shards_share_the_fits_seed_by_seed():
    given = "--seeds=0,7", "--runs=gsplat,mcmc"
    every = [(0, "gsplat"), (0, "mcmc"), (7, "gsplat"), (7, "mcmc")]
    assert captures.parse_fits(parse(*given)) == every
    assert captures.parse_fits(parse(*given, "--shard=1/3")) == every[1::3]


def test_flags_reach_the_fit(data):
    values = parse(f"--data={data}", "--random_background", "--mask_weight=0.5", "--steps=70", "--gaussians=199")
    capture, true = captures.open_capture(values, False), load_capture(data).images
    config = captures.config_of(values, capture, "ours")
    assert config.background == "random" and config.mask_weight == 0.5 and config.strategy.name == "default"
    assert config.steps == 70 and config.capacity == 199 and (capture.images == true).all()
    values = parse(f"--data={data}", "--nouse_masks")
    capture = captures.open_capture(values, False)
    config = captures.config_of(values, capture, "mcmc")
    assert config.background == "white" and config.mask_weight == 0 and config.strategy.name == "mcmc"
    assert (capture.images[..., 3] == 1).all() and (true[..., 3] == 0).any()
    white = true[..., :3] * true[..., 3:] + 1 - true[..., 3:]
    np.testing.assert_allclose(capture.images[..., :3], white, atol=1e-6)


def test_fits_are_judged_on_white(data):
    """White pictures of a square of 64 among 256 pixels."""
    capture = load_capture(data)
    judged = captures.judge(lambda cameras: np.ones((len(cameras), 16, 16, 4), np.float32), capture)
    square = np.mean((1 - np.array([179, 102, 51]) / 255) ** 2)
    for name in ("test_psnr", "worst_test_psnr", "train_psnr"):
        assert judged[name] == pytest.approx(-10 * np.log10(square / 4), abs=1e-3)


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
        (["--steps=0"], "flag --steps"),
        (["--sh_degree=5"], "flag --sh_degree"),
        (["--gsplat_start=ball"], "flag --gsplat_start"),
        (["--mask_weight=-1"], "flag --mask_weight"),
    ],
)
def test_wrong_flags_end_with_one_line_and_code_2(given, message, data, capsys):
    assert captures.PROGRAM([f"--data={data}", "--runs=ours", *given]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and message in printed.err and not printed.out


def test_a_capture_without_held_out_views_is_refused(tmp_path):
    write_capture(tmp_path)
    (tmp_path / "transforms_test.json").unlink()
    with pytest.raises(InputError, match="no held-out views to judge by; expected transforms_test.json"):
        captures.open_capture(parse(f"--data={tmp_path}"), False)


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
def trained(data):
    """Fits by gsplat's trainer on a CPU, its density control from step 10 and its resets due at 25 and 50."""
    for package in ("torch", "gsplat", "pytorch_msssim"):
        pytest.importorskip(package)
    from gsplat.strategy import DefaultStrategy

    from experiments.benchmarks import gsplat_fit

    class Watched(DefaultStrategy):
        """Notes the largest opacity before each step."""

        def step_pre_backward(self, params, *rest):
            opacities.append(params["opacities"].max().sigmoid().item())
            super().step_pre_backward(params, *rest)

    def fit(steps, **more):
        opacities.clear()
        strategy = Watched(refine_start_iter=10, refine_every=20, reset_every=25, grow_grad2d=1e-6)
        options = {"count": 192, "report": lambda *progress: None, "device": "cpu", "rasterize": spots}
        figures, draw = gsplat_fit.fit_gsplat(
            capture, steps=steps, seed=0, sh_degree=0, strategy=strategy, **options, **more
        )
        return figures | captures.judge(draw, capture), list(opacities)

    opacities, capture = [], load_capture(data)
    return fit


@pytest.mark.parity
def test_gsplats_trainer_fits_the_views(trained):
    (first, _), (last, opacities) = trained(1), trained(60)
    assert last["loss_ssim"] == "pytorch_msssim" and last["start"] == "hull" and last["torch"] and last["gsplat"]
    assert last["mean_ms_per_step"] == pytest.approx(1e3 * last["seconds"] / 60, rel=1e-2)
    assert first["gaussians"] == 192 < last["gaussians"]
    assert first["test_psnr"] + 4 < last["test_psnr"] and first["train_psnr"] + 4 < last["train_psnr"]
    assert trained(60)[0]["test_psnr"] == last["test_psnr"]
    assert len(opacities) == 60


@pytest.mark.parity
def test_only_the_flag_resets_gsplats_opacities(trained):
    figures, opacities = trained(60)
    assert not figures["reset"] and min(opacities) > 0.05
    figures, opacities = trained(60, reset=True)
    assert figures["reset"] and [step for step, most in enumerate(opacities) if most < 0.0101] == [26, 51]


@pytest.mark.parity
def test_starts_of_gsplat(data):
    pytest.importorskip("torch")
    pytest.importorskip("gsplat")
    from experiments.benchmarks import gsplat_fit

    capture, rng = load_capture(data), np.random.default_rng(0)
    points, colours = gsplat_fit.start_points("cube", capture, 192, 0, rng)
    assert points.shape == colours.shape == (100_000, 3) and points.dtype == colours.dtype == np.float32
    np.testing.assert_allclose([points.min(), points.max(), colours.min(), colours.max()], [-1.3, 1.3, 0, 1], atol=1e-3)
    points, colours = gsplat_fit.start_points("hull", capture, 192, 0, rng)
    ours = initial.seen_points(jax.random.key(0), capture.cameras, 192, capture.images)
    np.testing.assert_array_equal(points, ours)
    assert len(points) == 192 and (colours == 0.5).all()
