"""What is done with props of a noun: which are painted, which carry others, which are too large for a table."""

from __future__ import annotations


def _nouns(text: str) -> frozenset[str]:
    """Nouns of a text; ``_`` stands for a blank."""
    return frozenset(noun.replace("_", " ") for noun in text.split())


# People and the like: never painted.
PEOPLE = _nouns("captain character figure girl man officer pirate turtle woman zombie")

# Food, plants and animals: mostly in their own colours.
NATURAL = _nouns(
    """
    acorn alien anglerfish apple avocado bacon baguette banana berry blobfish blossom bread broccoli bud bun burger
    bush cactus cake carrot catfish cheese cloud clownfish cob coconut cookie core cream croissant cupcake dinosaur dirt
    dog dolphin donut dragon drumstick dumpling eagle egg eggplant feather field fillet fish flame flower flowers
    frappe fruit goldfish grapes grass ham houseplant leaf leek lemon lettuce lion log meat mountain muffin mushroom
    mussel onion orange pancake patty pear pepper pie pineapple piranha pizza planet plant potato pudding pumpkin rabbit
    radish rhino ribs rock rocks rosette rubble sandwich sausage seashell seedling shark skewer skull slice smoke
    stalk steak stick strawberry stump sundae sunfish sushi swordfish taco tomato tree tuna unicorn waffle watermelon
    whale wheat whipped_cream bell_pepper apple_tree palm_tree pine_tree orange_tree candy_bar chocolate_bar chicken_leg
    corn_dog hot_dog ice_cream manta_ray rice_ball sushi_roll jack-o'-lantern
    """
)

# What stands on the ground in the open, or fills a room: not on a table, and next to its like.
LARGE = _nouns(
    """
    ambulance armchair barracks barrier bathtub bed bench bookshelf bridge building bus cabinet camp campfire car
    castle church column counter couch crossing crypt curve depot desk dock door dresser dumpster farm farmhouse field
    fireplace fort fortress fountain fridge gate gazebo guardrail house hut junction locomotive lumber market
    mill mine mountain obelisk oven pillar post posts ramp range road rock rocks rover
    scaffolding ship shipwreck shower shrine sign
    signpost site spaceship staircase stall statue station stove stump table tavern taxi temple tent tomb tower tractor
    trailer tree truck truss tunnel turret van wagon wall watchtower watermill well wheelbarrow windmill window
    apple_tree palm_tree pine_tree orange_tree fire_truck garbage_truck school_bus ferris_wheel wind_turbine
    water_tower street_lamp street_light traffic_light space_station moon_lander washing_machine radio_mast
    satellite_dish oil_drum trash_can bike_rack door_frame fire_hydrant
    """
)

# What carries others, where its top is flat.
SUPPORTS = _nouns(
    """
    barrel block board book box cabinet chest column container counter crate cube desk dresser keg
    nightstand pallet panel pedestal plate platform podium rug slab stool stump table tray trunk washing_machine
    chest_of_drawers cutting_board oil_drum drum cake_stand
    """
)
