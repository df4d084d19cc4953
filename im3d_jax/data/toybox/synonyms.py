"""Other words for the words of Toybox captions, so that prompts need not be worded as captions are.

Only words that denote what the caption's word draws: no kettle for a teapot, no jet for a propeller plane, no lilac for
a dark purple. Regular plurals need no entry, the tokenizer finds their singular. Captions never use these words, so
that the table may grow without a new training.
"""

from __future__ import annotations


# Keys are words of `VOCABULARY`, or several in a row.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "a": ("the", "one"),
    "with": ("having",),
    "on": ("upon", "atop", "on top of"),
    "next to": ("beside", "near", "alongside", "adjacent to"),
    "wooden": ("wood", "timber"),
    "small": ("tiny", "little", "mini", "miniature"),
    "large": ("big", "huge", "giant", "enormous"),
    "red": ("crimson", "scarlet", "ruby"),
    "green": ("emerald",),
    "cyan": ("turquoise", "aqua", "teal"),
    "blue": ("azure", "navy", "cobalt", "navy blue"),
    "purple": ("violet",),
    "black": ("ebony",),
    "gray": ("grey",),
    "stripes": ("stripe", "striped", "stripy"),
    "dots": ("dot", "dotted", "spot", "spotted", "polka dots", "polka dot", "polka dotted"),
    "checks": ("check", "checked", "checkered", "chequered", "checkerboard"),
    "bands": ("band", "banded"),
    "zigzags": ("zigzag", "zig zag", "chevron"),
    "mug": ("cup",),
    "teapot": ("tea pot",),
    "table": ("desk",),
    "lamp": ("table lamp",),
    "vase": ("urn",),
    "bucket": ("pail",),
    "sofa": ("couch", "settee"),
    "cupboard": ("cabinet", "wardrobe", "closet"),
    "clock": ("alarm clock",),
    "umbrella": ("parasol", "brolly"),
    "shoe": ("sneaker",),
    "crate": ("box",),
    "cushion": ("pillow",),
    "house": ("home", "cottage"),
    "castle": ("fortress",),
    "lighthouse": ("light house",),
    "well": ("wishing well",),
    "mailbox": ("letterbox", "mail box", "letter box"),
    "rocket": ("spaceship", "spacecraft", "rocketship", "rocket ship"),
    "car": ("automobile", "auto", "motorcar"),
    "truck": ("lorry",),
    "bus": ("coach",),
    "train": ("locomotive",),
    "plane": ("airplane", "aeroplane", "aircraft"),
    "boat": ("sailboat", "sailing boat", "yacht"),
    "ship": ("vessel", "steamship"),
    "barrow": ("wheelbarrow",),
    "snowman": ("snow man", "snowmen"),
    "robot": ("android", "droid"),
    "cat": ("kitten", "kitty"),
    "dog": ("puppy", "hound"),
    "pig": ("piglet", "hog"),
    "horse": ("pony",),
    "bear": ("teddy", "teddy bear"),
    "bee": ("bumblebee", "honeybee"),
    "mushroom": ("toadstool",),
    "tree": ("apple tree",),
    "fir": ("fir tree", "pine", "pine tree", "conifer", "christmas tree"),
    "burger": ("hamburger", "cheeseburger"),
    "icecream": ("ice cream", "ice cream cone"),
    "pumpkin": ("jack o lantern",),
    "cactus": ("cacti",),
    "flower": ("blossom",),
}

# {other word: the caption's}
ALIASES: dict[str, str] = {other: word for word, others in SYNONYMS.items() for other in others}
