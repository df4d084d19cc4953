"""The nouns of Toybox: one builder each, random generator in, primitives out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from im3d_jax.data.toybox.nouns import creatures, garden, household, places
from im3d_jax.data.toybox.primitives import Primitive


Builder = Callable[[np.random.Generator], list[Primitive]]

_BUILDERS: tuple[Builder, ...] = (
    household.mug,
    household.teapot,
    household.chair,
    household.table,
    household.lamp,
    household.vase,
    household.bottle,
    household.bucket,
    household.hammer,
    household.key,
    household.bench,
    household.sofa,
    household.bed,
    household.cupboard,
    household.clock,
    household.umbrella,
    household.telescope,
    household.camera,
    household.drum,
    household.guitar,
    household.hat,
    household.shoe,
    places.house,
    places.castle,
    places.lighthouse,
    places.windmill,
    places.tent,
    places.well,
    places.mailbox,
    places.rocket,
    places.car,
    places.truck,
    places.bus,
    places.train,
    places.plane,
    places.boat,
    places.ship,
    places.cannon,
    places.barrow,
    places.basket,
    creatures.snowman,
    creatures.robot,
    creatures.duck,
    creatures.cat,
    creatures.dog,
    creatures.pig,
    creatures.cow,
    creatures.elephant,
    creatures.penguin,
    creatures.fish,
    creatures.bear,
    creatures.snail,
    creatures.bee,
    creatures.horse,
    creatures.doll,
    garden.mushroom,
    garden.tree,
    garden.fir,
    garden.cake,
    garden.burger,
    garden.icecream,
    garden.pear,
    garden.apple,
    garden.pumpkin,
    garden.cactus,
    garden.flower,
    garden.carrot,
)

NOUNS: dict[str, Builder] = {builder.__name__: builder for builder in _BUILDERS}

__all__ = ["NOUNS", "Builder"]
