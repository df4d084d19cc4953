"""The program that fits an elevation head: its features, its head beside the weights, and what it refuses."""

import math

import numpy as np
import pytest

from experiments import train_clip_elevation as program
from im3d_jax.errors import InputError
from im3d_jax.models.clip import CLIPVisionConfig
from im3d_jax.pipelines.clip_elevation import find_head, save_head
from im3d_jax.pipelines.sources import CheckpointSource
from im3d_jax.weights.checkpoints import open_checkpoint
from im3d_jax.weights.encoders import encoder_network, encoder_shapes
from im3d_jax.weights.miniature import miniature, write_miniature
from tests.tiny import draw_parameters


def test_features_of_a_random_encoder_tell_the_elevation():
    """Of two objects again and again: such an encoder does not know what all objects have in common."""
    config = CLIPVisionConfig(width=64, layers=1, heads=4, hidden=128, projection=96, image_size=32, patch=4)
    encoder, params, reports = encoder_network(config), draw_parameters(encoder_shapes(config)), []
    options = {"side": 32, "report": lambda *progress: reports.append(progress)}
    seen = program.measure_objects(encoder, params, "test", [1, 2] * 45, seed=0, **options)
    unseen = program.measure_objects(encoder, params, "test", [1, 2] * 12, seed=1, **options)
    assert seen[0].shape == (90, 96) and math.degrees(np.ptp(seen[1])) > 50 and reports[-1] == (24, 24, "test")
    head, line = program.fit_head(seen, unseen, "ab" * 32)
    constant = np.abs(np.median(seen[1]) - unseen[1]).mean()
    assert head.error < 0.5 * constant and head.error == pytest.approx(np.abs(head(unseen[0]) - unseen[1]).mean())
    assert (head.lowest, head.highest, head.encoder) == (program.LOWEST, program.HIGHEST, "ab" * 32)
    assert line.startswith(f"mean absolute error on 24 held-out objects: {math.degrees(head.error):.2f} degrees")


def noise(count, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 4)), rng.uniform(-0.2, 0.8, count)


def test_features_that_say_nothing_are_refused():
    with pytest.raises(InputError, match="say nothing about the elevation; give more --objects"):
        program.fit_head(noise(8, 0), noise(400, 1), "ab" * 32)


def test_a_head_lies_where_the_model_looks_for_it(tmp_path):
    file = write_miniature(tmp_path / "sv3d_u.safetensors", miniature("sv3d_u"))
    source = CheckpointSource(open_checkpoint(file, preset=miniature("sv3d_u")))
    assert find_head(source) is None
    features = np.random.default_rng(0).normal(size=(40, 6))
    elevations = 0.2 + 0.1 * features[:, 0]
    head, _ = program.fit_head((features, elevations), (features, elevations), source.encoder_fingerprint())
    save_head(source.head_file, head)
    found = find_head(source)
    np.testing.assert_array_equal(found.weight, head.weight)
    assert found.error == pytest.approx(head.error) and found.encoder == source.encoder_fingerprint()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is missing"),
        (["--model=none.safetensors"], "none.safetensors: no such file or folder"),
        (["--model=x", "--objects=7"], "flag --objects"),
    ],
)
def test_wrong_flags_are_one_line(arguments, message, capsys):
    assert program.PROGRAM(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and not shown.out
