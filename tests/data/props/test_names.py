"""Names of props: a person's words, a noun each, and a split that no name crosses."""

import re

import pytest

from im3d_jax.data.props.catalogue import catalogue
from im3d_jax.data.props.names import NAMES, Name, names_by_caption, reviewed_name, table
from im3d_jax.data.props.paints import USUAL


PACK_WORDS = {
    "adventurer", "asset", "city", "crop", "cute", "cyberpunk", "dungeon", "fantasy", "halloween", "kaykit", "kenney",
    "medieval", "model", "modular", "platformer", "poly", "prop", "props", "prototype", "quaternius", "sci-fi",
    "strategy", "transformed", "variant",
}  # fmt: skip
CAPITALS = {"CD", "SUV", "USB", "X"}


@pytest.mark.parametrize(
    ("text", "said", "bare", "noun"),
    [
        ("barrel", "a barrel", "barrel", "barrel"),
        ("post with a [blue] flag", "a post with a blue flag", "post", "post"),
        ("[golden] sword", "a golden sword", "sword", "sword"),
        ("castle with [red] roofs", "a castle with red roofs", "castle", "castle"),
        ("open treasure_chest", "an open treasure chest", "open treasure chest", "treasure chest"),
        ("chest_of_drawers", "a chest of drawers", "chest of drawers", "chest of drawers"),
        ("stack of coins", "a stack of coins", "stack of coins", "coin"),
        ("bowl of soup", "a bowl of soup", "bowl of soup", "bowl"),
        ("three candles", "three candles", "three candles", "candles"),
        ("headphones", "headphones", "headphones", "headphones"),
        ("bunch of grapes on a plate", "a bunch of grapes on a plate", "bunch of grapes on a plate", "bunch"),
        ("USB stick", "a USB stick", "USB stick", "stick"),
        ("SUV", "an SUV", "SUV", "SUV"),
        ("unicorn", "a unicorn", "unicorn", "unicorn"),
    ],
)
def test_notation(text, said, bare, noun):
    name = Name(text)
    assert (name.with_article(), name.bare, name.noun) == (said, bare, noun)


def test_words_in_front_change_the_article_and_replace_colours():
    assert Name("[golden] axe").with_article("wooden", coloured=False) == "a wooden axe"
    assert Name("barrel").with_article("orange") == "an orange barrel"
    assert Name("curtains").with_article("red") == "red curtains"
    assert Name("small round table").with_article("orange") == "a small round orange table"
    assert Name("open treasure_chest").with_article("orange") == "an open orange treasure chest"
    assert Name("two sacks").with_article("white") == "two white sacks"
    assert Name("stack of coins").with_article("golden") == "a stack of golden coins"
    assert Name("pile of rocks with moss").with_article("red") == "a pile of red rocks with moss"


def test_reviewed_names_are_a_persons_words():
    for row in table(NAMES):
        if not row["name"]:  # left out
            continue
        phrase = Name(row["name"]).phrase
        words = phrase.split()
        assert re.fullmatch(r"[A-Za-z' -]+", phrase), phrase
        assert words[0] not in ("a", "an", "the"), phrase
        assert not PACK_WORDS & set(words), phrase
        assert all(word in CAPITALS or word == word.lower() for word in words), phrase
        assert all(len(word) > 1 or word in ("a", "X") for word in words) and words[-1] != "a", phrase
        assert not [word for word, following in zip(words, words[1:], strict=False) if word == following], phrase
        assert Name(row["name"]).noun and row["usual"] in {"", *USUAL}, phrase


def test_composites_name_more_than_the_object():
    composite = ("bowl of soup", "table with plates", "candy_bar in a wrapper", "chest full of gold")
    assert all(Name(text).composite for text in composite)
    single = ("stack of coins", "slice of pizza", "tower with a [red] roof", "wooden hut")
    assert not any(Name(text).composite for text in single)


def test_rows_with_a_pattern_come_first():
    rows = names_by_caption()
    tree = reviewed_name("quaternius-showcase/crops/Apple_2.glb", "apple crop", rows)
    fruit = reviewed_name("quaternius-showcase/crops/Apple_Crop.glb", "apple crop", rows)
    assert tree is not None and fruit is not None
    assert (tree["name"], fruit["name"]) == ("apple_tree", "apple")
    assert reviewed_name("elsewhere/Apple_2.glb", "apple crop", rows) is None


def test_the_catalogue_holds_reviewed_names():
    reviewed = {row["name"] for row in table(NAMES)}
    props = catalogue()
    assert len(props) > 2500 and len({prop.id for prop in props}) == len(props)
    assert {prop.name.text for prop in props} <= reviewed


def test_the_split_is_by_bare_name():
    """One name in ten is held out, with all of its colours."""
    sides: dict[str, set[bool]] = {}
    for prop in catalogue():
        sides.setdefault(prop.name.bare, set()).add(prop.name.held_out)
    assert all(len(found) == 1 for found in sides.values())
    assert 0.07 < sum(found == {True} for found in sides.values()) / len(sides) < 0.12
    assert Name("[golden] sword").held_out == Name("sword").held_out == Name("sword with a [red] handle").held_out
