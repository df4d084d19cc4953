"""Run by test_batch_devices.py with eight fake CPU devices: batches over eight devices, over one, and drawn alone."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from im3d_jax import parallel
from im3d_jax.diffusion import Guidance
from im3d_jax.generation.batch import make_room
from im3d_jax.images.alpha import composite
from im3d_jax.pipelines import Batch, Pipeline, ViewTask
from im3d_jax.pipelines.base import place
from im3d_jax.pipelines.bundle import BundleModel, Conditions
from im3d_jax.weights import load_bundle
from im3d_jax.weights.miniature import miniature, write_miniature
from tests.small_checkpoints import open_small
from tests.tiny import FRAMES, SIDE, write_bundle


def bundle_rows(model, many):
    """Five rows of eight: the same on eight devices, on one, and each on its own."""
    settings, row_seeds = model.view_settings("draft"), [3, 7, 2**32 - 1, 0, 1]
    one = Batch(parallel.make_mesh(devices=jax.devices()[:1]), 8)
    prompts = ["a red mug"] * 5
    pictures = [model.draw_pictures(prompts, row_seeds, settings.picture, batch=batch)() for batch in (many, one)]
    for sharded, single in zip(*pictures, strict=True):
        np.testing.assert_allclose(sharded.images, single.images, atol=1e-5)
        assert sharded.evaluations == single.evaluations
    picture = np.random.default_rng(1).uniform(size=(SIDE, SIDE, 4)).astype(np.float32)
    tasks = [ViewTask(picture, "a red mug", seed) for seed in row_seeds]
    drawn, again = (model.draw_views(tasks, settings, batch=batch)() for batch in (many, one))
    for sharded, single, task in zip(drawn, again, tasks, strict=True):
        (alone,) = model.draw_views([task], settings)()
        assert sharded.images.shape == (FRAMES, SIDE, SIDE, 4)
        np.testing.assert_allclose(sharded.images, single.images, atol=1e-5)
        np.testing.assert_allclose(sharded.images, alone.images, atol=1e-5)
        assert sharded.evaluations == alone.evaluations
    assert np.abs(drawn[0].images[1:] - drawn[1].images[1:]).max() > 1e-3
    renders = [np.roll(result.images, 1, axis=0) for result in drawn]
    refined = model.refine_views(renders, tasks, settings, round=1, batch=many)()
    (alone,) = model.refine_views(renders[2:3], tasks[2:3], settings, round=1)()
    np.testing.assert_allclose(refined[2].images, alone.images, atol=1e-5)


def lowers_for_tpus(model, mesh):
    """The sampler of such a batch lowers for eight TPUs."""
    rows, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    latent, config = model.config.latent_size, model.config

    def row(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct((8, *shape), dtype, sharding=rows)

    text = (row(config.text.length, config.text.width), row(config.text.length, dtype=jnp.bool_))
    given = Conditions(*text, *text, row(latent, latent, config.autoencoder.latent_channels))
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), model.params)
    noise = row(FRAMES, latent, latent, config.autoencoder.latent_channels)
    sampling = model.view_settings("draft").views
    traced = model._scan.trace(params["unet"], noise, given, sampling, Guidance(2.0, 1.5), True)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.while" in text and "stablehlo.convolution" in text and "mhlo.num_partitions = 8" in text


def orbit_rows(model, many):
    """Three orbits of a foreign model as drawn alone."""
    rng, settings = np.random.default_rng(1), model.view_settings("draft")
    pictures = rng.uniform(size=(3, model.image_size, model.image_size, 4)).astype(np.float32)
    tasks = [ViewTask(picture, None, seed) for seed, picture in enumerate(pictures, 4)]
    together = model.draw_views(tasks, settings, batch=many)()
    for task, drawn in zip(tasks, together, strict=True):
        (alone,) = model.draw_views([task], settings)()
        assert drawn.evaluations == alone.evaluations and drawn.remarks == alone.remarks
        np.testing.assert_allclose(composite(drawn.images), composite(alone.images), atol=1e-5)
        # Cutting out divides by small contrasts.
        np.testing.assert_allclose(drawn.images, alone.images, atol=1e-3)
    assert np.abs(together[0].images - together[1].images).max() > 1e-3


def main(folder):
    assert len(jax.devices()) == 8
    mesh = parallel.make_mesh()
    many = Batch(mesh, 8)
    model = BundleModel(load_bundle(write_bundle(pathlib.Path(folder) / "bundle")))
    bundle_rows(model, many)
    lowers_for_tpus(model, mesh)
    file = write_miniature(pathlib.Path(folder) / "sv3d_p.safetensors", miniature("sv3d_p"))
    orbit_rows(open_small(file, "sv3d_p"), many)
    assert len(place(jnp.zeros((8, 2)), many).sharding.device_set) == 8
    room = make_room(Pipeline(model, model), 5)
    assert len(room.devices) == 8 and room.rows == 8 and room.batch.mesh.size == 8
    print("8 devices agree with one and with drawing alone")


if __name__ == "__main__":
    main(sys.argv[1])
