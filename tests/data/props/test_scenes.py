"""Scenes of props: drawn from seed and index alone, captions that say what is painted, pairs that only touch."""

import re

import numpy as np
import pytest

from im3d_jax.data.props.arranging import arrange
from im3d_jax.data.props.catalogue import catalogue
from im3d_jax.data.props.paints import MATERIALS
from im3d_jax.data.props.scenes import PropScenes, vocabulary
from im3d_jax.data.toybox.palette import COLOURS
from tests.data.props.objects import PROPS, mesh


@pytest.fixture(scope="module")
def train():
    box = PropScenes("train")
    return [box.scene(index) for index in range(600)]


@pytest.fixture(scope="module")
def test():
    box = PropScenes("test")
    return [box.scene(index) for index in range(200)]


def test_a_scene_depends_on_seed_split_and_index_alone(train):
    np.random.seed(1)
    again = PropScenes("train")
    for index in (599, 0, 17):  # in another order
        assert again.scene(index) == train[index]
    assert PropScenes("train", seed=1).scene(17) != train[17] != PropScenes("test").scene(17)


def test_examples_differ(train):
    assert len({scene.caption for scene in train}) > 500
    assert len({(scene.caption, scene.yaw, scene.elevation) for scene in train}) == len(train)


def test_splits(train, test):
    assert len(PropScenes("train")) >= 100_000
    assert not any(part.prop.name.held_out for scene in train for part in scene.parts)
    assert all(scene.parts[0].prop.name.held_out for scene in test)
    assert not any(part.prop.name.held_out for scene in test for part in scene.parts[1:])
    for split in ("train", "test"):
        for index in (-1, len(PropScenes(split))):
            with pytest.raises(IndexError):
                PropScenes(split).scene(index)
    with pytest.raises(ValueError, match="unknown split"):
        PropScenes("validation")


def test_captions_say_paints(train):
    """Every colour and material that is drawn over an object is in its words, unless it is the usual one."""
    kinds = set()
    for scene in train:
        assert scene.caption == f" {scene.relation} ".join(part.words for part in scene.parts)
        for part in scene.parts:
            paint = part.paint
            assert paint.words in part.words
            if paint.scope != "none" and not paint.words:
                assert part.prop.usual
            if paint.words and paint.scope == "none":
                assert paint.words == part.prop.colour
            if part.prop.fixed or " in " in part.prop.name.bare:
                assert paint.scope == "none" or part.prop.usual
            kinds.add((paint.scope, paint.words in COLOURS, paint.words in MATERIALS))
    assert {("main", True, False), ("all", True, False), ("all", False, True), ("none", False, False)} <= kinds


def test_ranges(train):
    elevations = np.degrees([scene.elevation for scene in train])
    assert elevations.min() >= 0.0 and elevations.max() <= 45.0 and np.ptp(elevations) > 40.0
    assert {scene.relation for scene in train} == {"", "on", "next to"}
    for scene in train:
        if scene.parts[0].prop.low and scene.relation != "next to":
            assert np.degrees(scene.elevation) >= 15.0
        if scene.relation == "on":
            assert scene.parts[1].prop.carries and not scene.parts[0].prop.large
        if scene.relation:
            assert all(part.prop.stands for part in scene.parts)


def test_pairs_touch_what_they_stand_on_and_nothing_else():
    """A level plane lies between the objects of "on", an upright one between those of "next to"."""
    box = PropScenes("train", props=PROPS)
    seen = set()
    for index in range(80):
        scene = box.scene(index)
        meshes = [mesh(part.prop.id) for part in scene.parts]
        placed = []
        for each, transform in zip(meshes, arrange(scene, meshes), strict=True):
            points = np.concatenate([part.positions for part in each.parts])
            placed.append(points @ transform[:3, :3].T + transform[:3, 3])
            assert np.linalg.det(transform[:3, :3]) > 0.0
        radius = np.sqrt((np.concatenate(placed) ** 2).sum(-1)).max()
        assert radius == pytest.approx(scene.radius, abs=1e-6)
        seen.add(scene.relation)
        if scene.relation == "on":
            assert placed[0][:, 2].min() == pytest.approx(placed[1][:, 2].max(), abs=1e-6)
            middle = 0.5 * (placed[0].min(0) + placed[0].max(0))[:2]
            top = placed[1]
            assert (top[:, :2].min(0) < middle).all() and (middle < top[:, :2].max(0)).all()
        elif scene.relation:
            assert placed[0][:, 2].min() == pytest.approx(placed[1][:, 2].min(), abs=1e-6)
            c, s = np.cos(-scene.yaw), np.sin(-scene.yaw)
            sides = [points[:, :2] @ np.array([s, c]) for points in placed]
            sides.sort(key=np.mean)
            assert 0.0 < sides[1].min() - sides[0].max() < 0.3
    assert seen == {"", "on", "next to"}


def test_the_catalogue_has_enough_of_each_kind():
    props = catalogue()
    assert sum(prop.carries for prop in props) > 40
    assert sum(prop.stands for prop in props) > 1000
    assert len({prop.name.noun for prop in props}) > 500


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_vocabulary_has_every_word_of_the_captions(split):
    scenes = PropScenes(split)
    said = " ".join(scenes.caption(index) for index in range(3000)).lower()
    words = set(re.findall(r"[a-z0-9]+", said))
    assert words <= vocabulary() and len(words) > 200
