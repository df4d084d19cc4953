"""Typed overrides of nested configs."""

import dataclasses

import pytest

from experiments.configs import tiny_autoencoder, tiny_elevation, tiny_images, tiny_video
from experiments.configs.training import TrainConfig
from experiments.overrides import apply_overrides


CONFIG = TrainConfig()


def get(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("batch", "64", 64),
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", "1", 1.0),
        ("stage", "images", "images"),
        ("dtype", "3", "3"),
        ("frames", "(0, 4)", (0, 4)),
        ("model.unet.cyclic", "false", False),
        ("model.unet.cyclic", "True", True),
        ("model.unet.channels", "(8,16)", (8, 16)),
        ("model.log_snr_shift", "-0.5", -0.5),
    ],
)
def test_values_take_the_fields_type(name, text, value):
    made = apply_overrides(CONFIG, [f"{name}={text}"])
    found = get(made, name)
    assert found == value and type(found) is type(get(CONFIG, name))
    assert CONFIG == TrainConfig()


def test_several_leave_the_rest_alone():
    made = apply_overrides(CONFIG, ["batch=1", "model.unet.groups=4", "batch=2"])
    unet = dataclasses.replace(CONFIG.model.unet, groups=4)
    assert made == dataclasses.replace(CONFIG, batch=2, model=dataclasses.replace(CONFIG.model, unet=unet))
    assert apply_overrides(CONFIG, []) == CONFIG


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("batch", "expected name=value"),
        ("bach=3", "TrainConfig has no field bach; did you mean batch?"),
        ("model.unet.chanels=(8,)", "TinyUNetConfig has no field chanels; did you mean channels?"),
        ("zzz=3", "known: stage, objects"),
        ("batch.size=3", "batch is a int, it has no fields"),
        ("batch=many", "expected a int such as 32"),
        ("batch=3.5", "got a float"),
        ("batch=True", "got a bool"),
        ("model.unet.cyclic=1", "expected a bool such as True"),
        ("frames=3", "expected a tuple"),
        ("learning_rate=__import__('os')", "expected a float"),
        ("=3", "has no field"),
    ],
)
def test_refusals_are_one_line(assignment, message):
    with pytest.raises(ValueError) as error:
        apply_overrides(CONFIG, [assignment])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_configs_of_the_stages():
    modules = {"autoencoder": tiny_autoencoder, "images": tiny_images, "video": tiny_video, "elevation": tiny_elevation}
    for stage, module in modules.items():
        config = module.get_config()
        assert config.stage == stage and config.steps > 0 and 0 < config.ema < 1
        assert config.model == tiny_video.get_config().model
