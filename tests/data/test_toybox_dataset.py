"""Captions, splits, the hold-out rule, bounds of all objects, and the contact sheet."""

import hashlib
import math

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import toybox as sheet
from im3d_jax.data import toybox
from im3d_jax.data.toybox import primitives as prim
from im3d_jax.data.toybox.objects import Coat, assemble
from im3d_jax.data.toybox.scenes import pairable


@pytest.fixture(scope="module")
def scenes():
    return {split: [toybox.Toybox(split).scene(i) for i in range(3000)] for split in ("train", "test")}


def test_same_index_gives_the_same_object():
    first, second = toybox.Toybox("train"), toybox.Toybox("train")
    for index in (0, 17, 999_999):
        second.sample(index + 1 if index < 999_999 else 0)
        assert first.caption(index) == second.caption(index)
        for a, b in zip(jax.tree.leaves(first.sample(index)), jax.tree.leaves(second.sample(index)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert first.caption(0) == first.item(0)[0]


def test_first_captions_never_change():
    """Trained weights and published figures rest on these indices."""
    box = toybox.Toybox("train")
    text = "\n".join(box.caption(index) for index in range(200))
    assert text.splitlines()[1] == "a yellow pig with pink stripes"
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "c6fb4f2be452ca71"


def test_splits_differ_and_have_their_lengths():
    train, test = toybox.Toybox("train"), toybox.Toybox("test")
    assert (len(train), len(test)) == (1_000_000, 10_000)
    assert [train.caption(i) for i in range(20)] != [test.caption(i) for i in range(20)]


def test_held_out_combinations_stay_out_of_training(scenes):
    for scene in scenes["train"]:
        for part in scene.parts:
            assert not toybox.is_held_out(part.noun, part.colour, part.pattern)
    for scene in scenes["test"]:
        assert toybox.is_held_out(scene.main.noun, scene.main.colour, scene.main.pattern)


def test_one_in_ten_combinations_is_held_out():
    every = [(n, c, p) for n in toybox.NOUNS for c in toybox.COLOURS for p in toybox.PATTERNS]
    share = np.mean([toybox.is_held_out(*combination) for combination in every])
    assert share == pytest.approx(0.1, abs=0.015)


def test_captions_cover_the_vocabulary_and_nothing_else(scenes):
    captions = [scene.caption for split in scenes.values() for scene in split]
    words = {word for caption in captions for word in caption.split()}
    assert words == set(toybox.VOCABULARY)
    assert len(toybox.VOCABULARY) <= 200
    assert list(toybox.VOCABULARY) == sorted(set(toybox.VOCABULARY))
    assert len(toybox.NOUNS) >= 44 and len(toybox.COLOURS) == 12 and len(toybox.PATTERNS) == 6


def test_shares_of_two_part_scenes_and_sizes(scenes):
    train = scenes["train"]
    two = np.mean([scene.support is not None or scene.neighbour is not None for scene in train])
    assert two == pytest.approx(0.15, abs=0.03)
    assert np.mean([scene.size == "small" for scene in train]) == pytest.approx(0.13, abs=0.03)
    assert np.mean([scene.main.pattern == "plain" for scene in train]) == pytest.approx(0.35, abs=0.04)


def test_yaw_and_elevation_are_spread():
    box = toybox.Toybox("train")
    toys = [box.sample(index) for index in range(400)]
    elevation = np.array([toy.elevation for toy in toys])
    yaw = np.array([math.atan2(toy.object_from_world[0, 1], toy.object_from_world[0, 0]) for toy in toys])
    assert 0 <= elevation.min() < 0.05 and 0.73 < elevation.max() <= math.pi / 4
    assert np.abs(np.exp(1j * yaw).mean()) < 0.12


def inside_points(toy, rng):
    """Points of all parts in the world, from the stored arrays only."""
    for kind, maps, params in zip(toy.kind, toy.local_from_world, toy.params, strict=True):
        if kind == prim.INACTIVE:
            continue
        world_from_local = np.linalg.inv(np.vstack([maps.astype(np.float64), [0, 0, 0, 1]]))
        p = np.sign(rng.uniform(-1, 1, (600, 3)))
        if kind == prim.BOX:
            p[:, :2] *= 1 - params[:2] * (p[:, 2:] + 1) / 2
        else:
            c2, c1, c0, low, high = params[:5]
            z = np.concatenate([rng.uniform(low, high, 400), np.full(100, low), np.full(100, high)])
            angle = rng.uniform(0, 2 * np.pi, 600)
            radius = np.sqrt(np.maximum(-(c2 * z * z + c1 * z + c0), 0))
            p = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)
        yield p @ world_from_local[:3, :3].T + world_from_local[:3, 3]


def test_all_objects_stay_inside_the_sphere():
    rng = np.random.default_rng(0)
    toys = [toybox.describe(noun=noun, colour="red", size="large", seed=s)[1] for noun in toybox.NOUNS for s in (0, 1)]
    toys += [toybox.Toybox("test").sample(index) for index in range(100)]
    for number, toy in enumerate(toys):
        reach = max(np.linalg.norm(p, axis=-1).max() for p in inside_points(toy, rng))
        assert reach <= toybox.LARGEST_RADIUS + 1e-5
        if number < 2 * len(toybox.NOUNS):
            assert reach > 0.86, "the bound is loose: a large object should nearly fill the sphere"


def test_sizes_differ():
    def reach(size):
        toy = toybox.describe(noun="mug", colour="red", size=size)[1]
        return max(np.linalg.norm(p, axis=-1).max() for p in inside_points(toy, np.random.default_rng(0)))

    assert reach("small") < 0.75 * reach("") < 0.75 * reach("large")


def test_any_two_pairable_nouns_fit():
    biggest = pairable()
    assert len(biggest) > 20
    for noun in biggest:
        for seed in range(3):
            neighbour = toybox.Part(biggest[seed], "blue")
            toybox.describe(noun=noun, colour="red", neighbour=neighbour, seed=seed)
            toybox.describe(noun=noun, colour="red", support=("wooden", "table"), seed=seed)


def test_two_part_caption_and_positions():
    caption, toy = toybox.describe(
        noun="teapot", colour="blue", pattern="stripes", pattern_colour="white", support=("wooden", "table")
    )
    assert caption == "a blue teapot with white stripes on a wooden table"
    centres = -np.einsum("nij,nj->ni", np.linalg.inv(toy.local_from_world[:, :, :3]), toy.local_from_world[..., 3])
    pot = toy.colour[:, 2] > toy.colour[:, 0]
    table = (toy.kind != prim.INACTIVE) & (toy.colour[:, 0] > toy.colour[:, 2])
    assert centres[pot, 2].min() > centres[table, 2].max()
    assert toybox.describe(noun="cat", colour="red", neighbour=toybox.Part("mug", "orange"))[0] == (
        "a red cat next to an orange mug"
    )


def test_wrong_descriptions_are_explained():
    with pytest.raises(ValueError, match="did you mean 'teapot'"):
        toybox.describe(noun="teapott", colour="red")
    with pytest.raises(ValueError, match="give a pattern_colour"):
        toybox.describe(noun="mug", colour="red", pattern="dots")
    with pytest.raises(ValueError, match="at most one of"):
        toybox.describe(noun="mug", colour="red", size="small", support=("red", "crate"))
    with pytest.raises(ValueError, match="'train' or 'test'"):
        toybox.Toybox("validation")
    with pytest.raises(IndexError, match="10000"):
        toybox.Toybox("test").sample(10_000)
    with pytest.raises(ValueError, match="25 primitives"):
        parts = [prim.ellipsoid((i, 0, 0), 1.0) for i in range(25)]
        assemble([(parts, Coat("red"), np.zeros(3), 1.0)], radius=1.0, yaw=0.0, elevation=0.0)
    with pytest.raises(ValueError, match="no objects"):
        toybox.stack([])


def test_contact_sheet_has_every_object():
    box = toybox.Toybox("test")
    items = [box.item(index) for index in range(3)]
    frames = sheet.draw([toy for _, toy in items], views=2, size=32)
    assert frames.shape == (3, 2, 32, 32, 3) and frames.dtype == np.uint8
    image = sheet.contact_sheet(frames, [caption for caption, _ in items], columns=2)
    assert isinstance(image, Image.Image) and image.size == (2 * 2 * 32, 2 * (32 + 38))
    assert all(frame.min() < 200 and frame[0, 0, 0, 0] == 255 for frame in frames)
