"""Typed overrides of nested configs."""

import dataclasses
import math

import pytest

from experiments.configs import tiny_autoencoder, tiny_video
from experiments.overrides import apply_overrides
from im3d_jax.errors import InputError
from im3d_jax.training.loop import RunSettings


CONFIG = tiny_video.get_config()


def get(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("run.batch", "64", 64),
        ("stage.learning_rate", "1e-3", 1e-3),
        ("stage.learning_rate", "1", 1.0),
        ("stage.dtype", "float16", "float16"),
        ("stage.start.bundle", "3", "3"),
        ("stage.data.frames", "(0, 4)", (0, 4)),
        ("stage.start.model.unet.cyclic", "false", False),
        ("stage.start.model.unet.cyclic", "True", True),
        ("stage.start.model.unet.channels", "(8,16)", (8, 16)),
        ("stage.start.model.log_snr_shift", "-0.5", -0.5),
        ("run.fit_seconds", "60", 60.0),
        ("run.fit_seconds", "none", None),
        ("run.max_seconds", "inf", math.inf),
        ("optimizer.kind", "muon", "muon"),
    ],
)
def test_values_take_the_fields_type(name, text, value):
    before = dataclasses.asdict(CONFIG)
    found = get(apply_overrides(CONFIG, [f"{name}={text}"]), name)
    assert found == value and type(found) is type(value)
    assert dataclasses.asdict(CONFIG) == before


def test_several_leave_the_rest_alone():
    made = apply_overrides(CONFIG, ["batch=1", "run.steps=4", "batch=2"])
    assert made == dataclasses.replace(CONFIG, run=dataclasses.replace(CONFIG.run, batch=2, steps=4))
    assert apply_overrides(CONFIG, []) == CONFIG


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("batch", "expected name=value"),
        ("bach=3", "Recipe has no field bach; did you mean batch?"),
        ("stage.start.model.unet.chanels=(8,)", "TinyUNetConfig has no field chanels; did you mean channels?"),
        ("zzz=3", "known: stage, optimizer, run, mesh"),
        ("run.batch.size=3", "batch is a int, it has no fields"),
        ("run.batch=many", "expected an int such as 32"),
        ("run.batch=3.5", "got float"),
        ("run.batch=2147483648", "run.batch=2147483648: expected whole numbers from -2147483647 to 2147483647"),
        ("stage.data.frames=(0, 9999999999)", "expected whole numbers from"),
        ("stage.learning_rate=nan", "stage.learning_rate=nan: expected a float"),
        ("run.batch=True", "got bool"),
        ("stage.start.model.unet.cyclic=1", "expected a bool such as True"),
        ("stage.data.frames=3", "expected a tuple"),
        ("stage.learning_rate=__import__('os')", "expected a float"),
        ("optimizer.kind=sgd", "expected adamw or muon"),
        ("stage=svd", "has fields; set one of them"),
        ("run.batch=0", "batch=0: expected at least 1"),
        ("=3", "has no field"),
    ],
)
def test_refusals_are_one_line(assignment, message):
    with pytest.raises(InputError) as error:
        apply_overrides(CONFIG, [assignment])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_name_of_two_parts_is_refused():
    with pytest.raises(InputError, match="write stage.steps"):
        apply_overrides(_Two(), ["steps=3"])


@dataclasses.dataclass(frozen=True)
class _Two:
    stage: RunSettings = RunSettings()
    run: RunSettings = RunSettings()


def test_recipes_share_their_networks():
    assert tiny_autoencoder.get_config().stage.start.model == CONFIG.stage.start.model
