"""The benchmark of foreign networks, in miniature."""

import dataclasses
import json

import pytest

from experiments.benchmarks import networks
from experiments.benchmarks.random_models import RandomSource, ShownTorus
from im3d_jax.pipelines.memory import MEMORIES
from im3d_jax.weights.miniature import SIDE, VIEWS, miniature
from tests.small_checkpoints import shortened


class ShortTorus(ShownTorus):
    """With a short search and a short fit."""

    def view_settings(self, quality):
        return shortened(super().view_settings(quality))


def test_a_unet():
    line = networks.unet_case(miniature("sv3d_p"), MEMORIES["16gb"], repeats=1)
    assert line["rows"] == 1 and line["latent"] == [SIDE // 2, SIDE // 2] and line["frames"] == VIEWS
    # Twice the multiplications: the first and last convolutions alone take 2 million.
    assert line["tflop"] > 3e-6
    assert line["tflop_per_s"] == pytest.approx(1e3 * line["tflop"] / line["median_ms"], rel=1e-3)


def test_a_decoder():
    preset = dataclasses.replace(miniature("sv3d_u"), frames=6)
    both, one = (networks.decoder_case(preset, MEMORIES[name], repeats=1) for name in ("80gb", "16gb"))
    assert one["at_once"] == 1 and both["at_once"] == 3 and one["frames"] == 6
    assert one["compile_s"] > 0 and one["program_gib"] > 0
    # However many frames go through at a time, all are counted.
    assert one["tflop"] == both["tflop"] > 0


def test_a_whole_run():
    model = ShortTorus(RandomSource(miniature("sv3d_u")), MEMORIES["80gb"])
    line = networks.generate_case(model, quality="draft", rounds=1)
    assert line["network_evaluations"] == 2 * 1 + 2 * 5 and line["second_run_s"] > 0 and line["gaussians"] > 0
    assert {"views", "cameras", "fit0", "refine1", "fit1", "asset", "metrics"} <= set(line["stages_s"])
    assert {"encoder", "unet", "decoder", "fit"} == set(line["estimate_gib"])


def test_sizes_of_ones_own():
    preset = networks.preset_of("svd", frames=21, side=64)
    assert (preset.frames, preset.height, preset.width) == (21, 64, 64)
    assert networks.preset_of("svd").frames == 14 and networks.preset_of("sv3d_u").height == 576


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--family=sv3d", "--family=sv3d: expected some of"),
        ("--memory=80gb,1gb", "--memory=1gb: expected some of 16gb"),
        ("--case=encoder", "flag --case"),
    ],
)
def test_wrong_flags_are_one_line(flag, words, capsys):
    assert networks.PROGRAM([flag]) == 2
    shown = capsys.readouterr()
    assert words in shown.err and shown.err.count("\n") == 1 and not shown.out


def test_random_parameters_fill_every_part():
    source = RandomSource(miniature("sv3d_u"))
    sizes = source.sizes()
    assert set(sizes) == {"unet", "vae", "encoder"} and all(values > tensors > 10 for tensors, values in sizes.values())
    assert json.dumps(source.sha256())
