"""Trains one stage of a model bundle.

    python -m experiments.train --config=tiny_autoencoder --workdir=runs/tiny
    python -m experiments.train --config=tiny_images      --workdir=runs/tiny
    python -m experiments.train --config=tiny_video       --workdir=runs/tiny
    python -m experiments.train --config=tiny_elevation   --workdir=runs/tiny

A stage reads WORKDIR/bundle (made new if absent, or copied from --init), trains its part and writes the
averaged parameters back, every five minutes and at its end; its own checkpoints and metrics are in WORKDIR/STAGE, and a
rerun continues them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import math
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from experiments.configs.training import TrainConfig
from experiments.overrides import apply_overrides
from experiments.validation import validate
from im3d_jax import parallel
from im3d_jax.data import turntables
from im3d_jax.data.toybox import ALIASES, VOCABULARY
from im3d_jax.images.alpha import composite_on_white
from im3d_jax.models import is_temporal_parameter
from im3d_jax.training import create_state, losses, make_train_steps, optimizers, train
from im3d_jax.training.stacks import plan_stacks
from im3d_jax.training.state import merge, split
from im3d_jax.weights import (
    Bundle,
    BundleConfig,
    WordTokenizer,
    build_tokenizer,
    flatten,
    load_bundle,
    networks,
    parameter_shapes,
    save_bundle,
    unflatten,
)
from im3d_jax.weights.bundle import example_inputs


_CONFIG = flags.DEFINE_string("config", None, "A module of experiments/configs, e.g. tiny_video.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_INIT = flags.DEFINE_string("init", None, "Bundle to start from when WORKDIR/bundle is absent: 'tiny' or a folder.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the run.")
_SET = flags.DEFINE_multi_string("set", [], "Typed override, e.g. --set batch=64 (repeatable).")
_MAX_SECONDS = flags.DEFINE_float("max_seconds", math.inf, "Stop after so long; a rerun continues.")
_FIT_SECONDS = flags.DEFINE_float(
    "fit_seconds", None, "As many steps as fit into so long, in place of the configuration's `steps`."
)
_COMPILE_ONLY = flags.DEFINE_bool("compile_only", False, "Compile the step into JAX_COMPILATION_CACHE_DIR and stop.")
_FSDP = flags.DEFINE_integer("fsdp", 1, "Devices over which parameters are split.")


def open_bundle(folder: pathlib.Path, config: TrainConfig, init: str | None, seed: int) -> Bundle:
    """The bundle in `folder`, or a copy of `init`, or a new one with random weights (written to `folder`)."""
    if folder.is_dir():
        return load_bundle(str(folder))
    if init is not None:
        source = load_bundle(init)
        save_bundle(folder, source.config, source.tokenizer, source.params, dtype=jnp.float32)
        return load_bundle(str(folder))
    tokenizer = WordTokenizer(build_tokenizer(VOCABULARY, ALIASES), config.model.text.length)
    if len(tokenizer.words()) + 3 > config.model.text.vocabulary:
        raise ValueError(
            f"{len(tokenizer.words())} words do not fit into model.text.vocabulary={config.model.text.vocabulary}"
        )
    inputs, params = example_inputs(config.model), {}
    for i, (part, module) in enumerate(networks(config.model).items()):
        key = jax.random.fold_in(jax.random.key(seed), i)
        params[part] = jax.jit(module.init)(key, *inputs[part])["params"]
    save_bundle(folder, config.model, tokenizer, params, dtype=jnp.float32)
    return load_bundle(str(folder))


def make_schedule(config: TrainConfig):
    """Share of the learning rate by (step, total): warm-up, constant, linear decay over the last `decay` of the run."""

    def schedule(step: jax.Array, total: jax.Array) -> jax.Array:
        hold = jnp.maximum(config.warmup, (1.0 - config.decay) * total)
        tail = (total - step) / jnp.maximum(1.0, total - hold)
        return jnp.clip(jnp.minimum(step / max(1, config.warmup), tail), 0.0, 1.0)

    return schedule


def make_optimizer(config: TrainConfig, optimized: dict):
    """(stacks of the optimized parameters, optimizer over them); spatial layers have their own share of the rate."""
    stacks = plan_stacks(optimized, functools.partial(optimizers.is_matrix, config.optimizer))

    def rate(name: str) -> float:
        share = 1.0 if is_temporal_parameter(name) or config.stage != "video" else config.spatial_rate
        return config.learning_rate * share

    return stacks, optimizers.make(config.optimizer, stacks, rate, config.weight_decay)


def make_data(config: TrainConfig, bundle: Bundle, split_name: str, count: int) -> dict[str, jax.Array]:
    """Renders (and, but for the autoencoder, encodes) the stage's set; arrays on the device."""
    encoder = networks(bundle.config)["autoencoder"]
    params = jax.tree.map(jnp.asarray, bundle.params["autoencoder"])

    def encode(rgba):
        flat = composite_on_white(rgba.reshape(-1, *rgba.shape[2:]))
        latents = encoder.apply({"params": params}, flat, method="encode")
        return latents.reshape(*rgba.shape[:2], *latents.shape[1:]).astype(jnp.bfloat16)

    started = time.monotonic()

    def progress(done, total):
        if done == total:
            logging.info("%s: %d of %d objects, %.1f s", split_name, done, total, time.monotonic() - started)

    transform = turntables.to_bytes if config.stage == "autoencoder" else encode
    values, captions, elevation = turntables.map_orbits(
        split_name, range(count), size=bundle.config.image_size, frames=config.frames, transform=transform,
        chunk=max(1, 512 // len(config.frames)), progress=progress,
    )  # fmt: skip
    if config.stage == "autoencoder":
        return {"rgba": values.reshape(-1, *values.shape[2:])}
    tokens = jnp.asarray(bundle.tokenizer(captions))
    if config.stage == "images":
        return {"latents": values[:, 0], "tokens": tokens}
    if config.stage == "video":
        return {"latents": values, "tokens": tokens}
    return {"latents": values, "elevation": jnp.asarray(elevation, jnp.float32)}


def data_shapes(config: TrainConfig, model: BundleConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of what `make_data` returns for the training split."""
    count, frames, side = config.objects, len(config.frames), model.latent_size
    if config.stage == "autoencoder":
        return {"rgba": jax.ShapeDtypeStruct((count * frames, model.image_size, model.image_size, 4), jnp.uint8)}
    lead = (count,) if config.stage == "images" else (count, frames)
    latents = jax.ShapeDtypeStruct((*lead, side, side, model.autoencoder.latent_channels), jnp.bfloat16)
    if config.stage == "elevation":
        return {"latents": latents, "elevation": jax.ShapeDtypeStruct((count,), jnp.float32)}
    return {"latents": latents, "tokens": jax.ShapeDtypeStruct((count, model.text.length), jnp.int32)}


def make_loss(config: TrainConfig, bundle: Bundle):
    """(loss, names of the parts it trains)."""
    dtype = jnp.dtype(config.dtype)
    unet = dataclasses.replace(bundle.config.unet, attention_implementation=config.attention)
    nets = networks(dataclasses.replace(bundle.config, unet=unet), dtype)
    shapes = parameter_shapes(bundle.config)

    def unpack(part):
        prefix = part + "."
        return lambda flat: unflatten(
            {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}, shapes[part]
        )

    process = bundle.config.process
    if config.stage == "autoencoder":
        return losses.autoencoder_loss(nets["autoencoder"], unpack("autoencoder"), config.kl_weight), ("autoencoder",)
    if config.stage == "elevation":
        return losses.elevation_loss(nets["elevation"], unpack("elevation")), ("elevation",)
    both = lambda flat: (unpack("unet")(flat), unpack("text_encoder")(flat))  # noqa: E731
    if config.stage == "images":
        return losses.image_loss(nets["unet"], nets["text_encoder"], both, process, config.drop), (
            "unet",
            "text_encoder",
        )
    if config.stage == "video":
        loss = losses.video_loss(
            nets["unet"], nets["text_encoder"], both, process,
            drop=config.drop, condition_noise=config.condition_noise, image_weight=config.image_weight,
            high_noise=config.high_noise,
        )  # fmt: skip
        return loss, ("unet", "text_encoder")
    raise ValueError(f"stage={config.stage}: expected autoencoder, images, video or elevation")


def trained(config: TrainConfig, name: str) -> bool:
    """Whether the stage trains a parameter, by its name ``part.dotted.name``."""
    if config.stage == "images":
        return not is_temporal_parameter(name)
    if config.stage == "video":
        return is_temporal_parameter(name) or (config.spatial_rate > 0 and name.startswith("unet."))
    return not name.endswith(("latent_mean", "latent_std"))


def measure_set(bundle: Bundle, params: dict, data: dict):
    """(params, bundle's config) after training: latents' spread, and the objects' usual size."""
    model = networks(bundle.config)["autoencoder"]
    moments = jax.jit(lambda rgba: model.apply({"params": params["autoencoder"]}, rgba, method="moments")[0])
    rows = data["rgba"][:: max(1, len(data["rgba"]) // 4096)][:4096].astype(jnp.float32) / 255.0
    means = jnp.concatenate([moments(composite_on_white(rows[i : i + 256])) for i in range(0, len(rows), 256)])
    spread = {"latent_mean": means.mean((0, 1, 2)), "latent_std": means.std((0, 1, 2))}
    fractions = [turntables.box_fraction(picture) for picture in np.asarray(data["rgba"][:2048]) / 255.0]
    bundle_config = dataclasses.replace(bundle.config, target_fraction=round(float(np.nanmedian(fractions)), 4))
    return {**params, "autoencoder": {**params["autoencoder"], **spread}}, bundle_config


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    config = importlib.import_module(f"experiments.configs.{_CONFIG.value}").get_config()
    config = apply_overrides(config, _SET.value)
    workdir = pathlib.Path(_WORKDIR.value)
    bundle = open_bundle(workdir / "bundle", config, _INIT.value, _SEED.value)
    mesh = parallel.make_mesh(fsdp=_FSDP.value)
    logging.info("%s on %d x %s", config.stage, mesh.size, jax.devices()[0].device_kind)

    loss, parts = make_loss(config, bundle)
    flat = {f"{part}.{name}": value for part in parts for name, value in flatten(bundle.params[part]).items()}
    optimized, held = split(flat, functools.partial(trained, config))
    stacks, optimizer = make_optimizer(config, optimized)
    state = create_state(jax.random.key(_SEED.value), stacks.stack(optimized), optimizer)
    state = jax.device_put(state, parallel.fsdp_sharding(mesh, state))
    held = jax.device_put(held, parallel.fsdp_sharding(mesh, held))
    steps: Any = make_train_steps(loss, optimizer, config.batch, config.ema, mesh, make_schedule(config), stacks)
    if _COMPILE_ONLY.value:
        started = time.monotonic()
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=parallel.replicated(mesh)),
            data_shapes(config, bundle.config),
        )
        with jax.set_mesh(mesh):
            steps.lower(state, held, shapes, config.log_every, config.steps).compile()
        logging.info("compiled the step of %s in %.1f s", config.stage, time.monotonic() - started)
        return
    data = jax.device_put(make_data(config, bundle, "train", config.objects), parallel.replicated(mesh))
    test = make_data(config, bundle, "test", config.evaluate_objects) if config.evaluate_objects else None

    def assemble(values: dict) -> dict:
        params = dict(bundle.params)
        for part in parts:
            own = {k.removeprefix(part + "."): v for k, v in values.items() if k.startswith(part + ".")}
            params[part] = unflatten(own, parameter_shapes(bundle.config)[part])
        return params

    def evaluate(state) -> dict[str, float]:
        params = assemble(merge(stacks.unstack(state.ema), held))
        assert test is not None
        return validate(config, dataclasses.replace(bundle, params=params), test)

    def write_bundle(state) -> None:
        params, bundle_config = assemble(jax.device_get(merge(stacks.unstack(state.ema), held))), bundle.config
        if config.stage == "autoencoder":
            params, bundle_config = measure_set(bundle, params, data)
        save_bundle(workdir / "bundle", bundle_config, bundle.tokenizer, params, dtype=jnp.float32)

    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    with jax.set_mesh(mesh):
        state, done = train(
            steps, state, held, data, total=config.steps, workdir=workdir / config.stage, settings=settings,
            log_every=config.log_every, evaluate_every=config.evaluate_every,
            evaluate=evaluate if test is not None else None, max_seconds=_MAX_SECONDS.value,
            fit_seconds=_FIT_SECONDS.value, on_checkpoint=write_bundle,
        )  # fmt: skip
    (workdir / config.stage / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
    logging.info("%s at step %d; wrote %s", "finished" if done else "stopped", int(state.step), workdir / "bundle")


if __name__ == "__main__":
    app.run(main)
