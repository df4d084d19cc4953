"""What `compile_tpu` compiles: train steps of all recipes, samplers, a step of the fit and the rasterizer.

A case gives a jitted function, and its arguments as shapes with shardings on the devices of a mesh. Nothing of it runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments import train
from experiments.benchmarks import scenes
from experiments.overrides import apply_overrides
from im3d_jax import parallel
from im3d_jax.diffusion import frame_scales, schedule, time_grid
from im3d_jax.models import TinyUNet
from im3d_jax.pipelines import bundle as bundles
from im3d_jax.pipelines import svd
from im3d_jax.pipelines.features import encoder_features
from im3d_jax.pipelines.residency import unet_of, working_dtype
from im3d_jax.reconstruction import Targets, fitting, losses
from im3d_jax.training.planning import abstract_step, with_sharding
from im3d_jax.training.recipe import Recipe
from im3d_jax.weights import load_bundle, networks
from im3d_jax.weights.names.networks import unet_shapes
from im3d_jax.weights.presets import PRESETS
from splat import orbit_cameras, render, round_capacity


ONE, EIGHT, POD = "v5e:1x1", "v5e:2x4", "v5e:16x16"
# Room for (tile, gaussian) pairs of four views of 512 x 512: twice those of a torus of 60,000 gaussians.
FIT_PAIRS = 2_000_000
# Pairs of `render`'s case, measured by `splat.count_pairs`.
RENDER_PAIRS = 1_073_485

Program = tuple[Any, tuple[Any, ...]]
"""(jitted function, its arguments as shapes)."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to compile.

    Attributes:
        topology: Of the devices.
        make: Gives the program on a mesh; called within `as_on_tpu`.
        overrides: Of the recipe, as --set of `experiments.train` takes them; for recipes alone.
        recipe: Whether the case is the train step of a recipe.
    """

    topology: str
    make: Callable[[Mesh, Recipe | None], Program]
    overrides: tuple[str, ...] = ()
    recipe: str = ""

    def settings(self, more: tuple[str, ...] = ()) -> Recipe | None:
        """The recipe with its overrides and `more` of them; None for other cases."""
        return apply_overrides(_recipe(self.recipe), (*self.overrides, *more)) if self.recipe else None


@contextlib.contextmanager
def as_on_tpu() -> Iterator[None]:
    """A context in which code that asks JAX for its default device chooses as on a TPU."""
    with mock.patch.object(jax, "default_backend", lambda: "tpu"):
        yield


def cases() -> dict[str, Case]:
    """All cases by name, the most important first."""
    found = {
        "sv3d_sampler": Case(ONE, _sv3d_sampler),
        "svd_multiview": _train("svd_multiview", EIGHT, "mesh.fsdp=8", "run.micro_batches=2"),
        "im3d_paper": _train("im3d_paper", POD, "run.batch=256", "mesh.fsdp=16"),
        "fit_512": Case(ONE, _fit),
        "render": Case(ONE, _render),
        "tiny_batch": Case(EIGHT, _tiny_batch),
        "svd_multiview_lora": _train("svd_multiview_lora", EIGHT, "mesh.fsdp=8", "run.micro_batches=2"),
        "sv3d_finetune": _train("sv3d_finetune", EIGHT, "stage.family=sv3d_u", "mesh.fsdp=8", "run.micro_batches=2"),
        "camera_conditioned": _train("camera_conditioned", EIGHT, "mesh.fsdp=8", "run.micro_batches=2"),
    }
    for name in train.names():
        if name not in found and name != "tiny":
            found[name] = _train(name, EIGHT)
    return found


def _train(name: str, topology: str, *overrides: str) -> Case:
    def make(mesh: Mesh, recipe: Recipe | None) -> Program:
        assert recipe is not None
        return abstract_step(recipe, mesh)

    return Case(topology, make, overrides, name)


def _recipe(name: str) -> Recipe:
    return train.open_recipe(name).get_config()


def _sv3d_sampler(mesh: Mesh, recipe: Recipe | None) -> Program:
    """All 50 steps of SV3D_u's orbit, both branches of guidance at once."""
    preset = PRESETS["sv3d_u"]
    network = unet_of(preset, working_dtype(), mesh.devices.flat[0])
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, working_dtype()), unet_shapes(preset.unet))
    side, channels = preset.height // preset.autoencoder.factor, preset.unet.out_channels
    struct = jax.ShapeDtypeStruct
    given = {
        "context": struct((1, 1, preset.unet.context_dims[0]), jnp.float32),
        "latent": struct((1, side, side, channels), jnp.float32),
        "vector": struct((1, len(preset.vector)), jnp.float32),
    }
    x = struct((1, preset.frames, side, side, channels), jnp.float32)
    levels = schedule(time_grid(preset.steps, last=0.0), svd.PROCESS)
    scales = frame_scales(preset.guidance, preset.frames, preset.guidance_low, preset.guidance_high)
    arguments = with_sharding((params, x, levels, given, scales), parallel.replicated(mesh))
    return svd.sample, (network, "euler", True, *arguments)


def _tiny_batch(mesh: Mesh, recipe: Recipe | None) -> Program:
    """All steps of tiny's orbits, eight rows a device, from pictures and prompts."""
    bundle = load_bundle("tiny")
    config, rows = bundle.config, bundles.ROWS_OF_ACCELERATORS * mesh.size
    unet = networks(config)["unet"]
    assert isinstance(unet, TinyUNet)
    sampling = bundles.QUALITIES["standard"].views
    guidance = sampling.guidance(True, True)
    struct, side, channels = jax.ShapeDtypeStruct, config.latent_size, config.autoencoder.latent_channels
    context = struct((rows, config.text.length, config.text.width), jnp.float32)
    mask = struct((rows, config.text.length), jnp.bool_)
    picture = struct((rows, side, side, channels), jnp.float32)
    x = struct((rows, config.unet.frames, side, side, channels), jnp.float32)

    def draw(params, x, context, mask, no_context, no_mask, picture):
        given = bundles.Conditions(context, mask, no_context, no_mask, picture)
        return bundles.sample(unet, config.process, params, x, given, sampling, guidance, True)

    batch = with_sharding((x, context, mask, context, mask, picture), parallel.batch_sharding(mesh))
    return jax.jit(draw), (with_sharding(bundle.params["unet"], parallel.replicated(mesh)), *batch)


def _fit(mesh: Mesh, recipe: Recipe | None) -> Program:
    """Steps of the fit of 21 views of 512 x 512, four in each step, 60,000 gaussians, perceptual features."""
    quality, side = svd.QUALITIES["standard"], 512
    cameras = orbit_cameras(math.radians(10.0), views=21, height=side, width=side)
    state = fitting.init_state(jax.random.key(0), quality.fit, cameras)
    state = state.replace(pair_capacity=round_capacity(FIT_PAIRS, quality.fit.pair_margin))
    network = encoder_features(load_bundle("tiny"))
    targets = Targets(jax.ShapeDtypeStruct((21, side, side, 4), jnp.float32))  # type: ignore[arg-type]
    kept = jax.eval_shape(losses.target_features, network, targets.rgba)
    figures = fitting.no_figures(quality.fit, network)
    whole = lambda tree: with_sharding(tree, parallel.replicated(mesh))  # noqa: E731
    arguments = (*whole((state, figures, targets, cameras, network, kept)), quality.fit, whole(jnp.int32(50)))
    return fitting.run_steps, arguments


def _render(mesh: Mesh, recipe: Recipe | None) -> Program:
    """`splat.render` and its gradient: a torus of 20,000 gaussians in 16 views of 256 x 256."""
    gaussians, cameras = scenes.torus(20_000), scenes.orbit(16, 256)
    capacity = round_capacity(RENDER_PAIRS)

    def loss(gaussians, cameras):
        image = render(gaussians, cameras, capacity=capacity)
        return jnp.mean(jnp.square(image.rgb)) + jnp.mean(jnp.square(image.alpha))

    return jax.jit(jax.value_and_grad(loss)), with_sharding((gaussians, cameras), parallel.replicated(mesh))
