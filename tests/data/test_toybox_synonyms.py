"""Other words for those of captions: each stands for trained words alone, and no caption is read in another way."""

import re

import numpy as np
import pytest

from im3d_jax.data import toybox
from im3d_jax.weights import BUNDLED, WordTokenizer, build_tokenizer


LENGTH = 24


@pytest.fixture(scope="module")
def bundled():
    return WordTokenizer.load(BUNDLED / "tokenizer.json", LENGTH)


def test_the_table():
    trained, others = set(toybox.VOCABULARY), list(toybox.ALIASES)
    listed = [other for words in toybox.SYNONYMS.values() for other in words]
    assert sorted(listed) == sorted(others), "one word for two things"
    assert not trained & set(others)
    assert all(word in trained for meant in toybox.ALIASES.values() for word in meant.split())
    assert len(others) >= 100 and 180 <= len(trained) + len(others) <= 230


def test_numbers_of_trained_words_stay(bundled):
    """They are rows of the text encoder's table: another number would be another word."""
    plain = WordTokenizer(build_tokenizer(toybox.VOCABULARY), LENGTH)
    assert bundled.words() == plain.words() == list(toybox.VOCABULARY)
    for row, word in zip(bundled(toybox.VOCABULARY), toybox.VOCABULARY, strict=True):
        assert row[:3].tolist() == [1, 3 + toybox.VOCABULARY.index(word), 0]


def test_captions_are_read_as_they_were_trained(bundled):
    numbers = {word: 3 + i for i, word in enumerate(toybox.VOCABULARY)}
    captions = [toybox.Toybox(split).item(i)[0] for split in ("train", "test") for i in range(300)]
    for row, caption in zip(bundled(captions), captions, strict=True):
        wanted = [1, *(numbers[word] for word in re.findall("[a-z]+", caption))]
        assert row.tolist() == wanted + [0] * (LENGTH - len(wanted)), caption


@pytest.mark.parametrize(
    "prompt, caption",
    [
        ("a crimson cup with white spots", "a red mug with white dots"),
        ("The navy-blue lorry with grey polka-dots", "a blue truck with gray dots"),
        ("a tiny ice cream", "a small icecream"),
        ("a scarlet kitten beside the emerald Christmas tree", "a red cat next to a green fir"),
        ("a huge automobile on top of a wood desk", "a large car on a wooden table"),
        ("violet cottages", "purple house"),
    ],
)
def test_prompts_in_other_words(bundled, prompt, caption):
    assert bundled.unknown_words(prompt) == []
    np.testing.assert_array_equal(bundled([prompt]), bundled([caption]))


def test_every_alias_alone(bundled):
    np.testing.assert_array_equal(bundled(toybox.ALIASES), bundled(toybox.ALIASES.values()))
