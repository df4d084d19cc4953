"""Prompts that name nothing a model knows: which they are, and what is suggested."""

import pytest

from im3d_jax.data.toybox import NOUNS
from im3d_jax.data.toybox.nouns.supports import SUPPORTS
from im3d_jax.pipelines.prompts import QUALIFIERS, nothing_known, things
from im3d_jax.weights import WordTokenizer, build_tokenizer
from im3d_jax.weights.bundle import BUNDLED


@pytest.fixture(scope="module")
def tiny():
    return WordTokenizer.load(BUNDLED / "tokenizer.json", 24)


def test_things_of_the_bundled_model_are_the_nouns_of_its_captions(tiny):
    assert things(tiny) == sorted({*NOUNS, *SUPPORTS})


@pytest.mark.parametrize("prompt", ["a red mug", "cups", "on the table", "a zork teddy bear", "Pear!", "pine trees"])
def test_one_known_thing_is_enough(tiny, prompt):
    assert nothing_known(prompt, tiny, "tiny") is None


@pytest.mark.parametrize("prompt", ["pangolin", "a large crimson zork", "with a", "blue", "next to the", "...", ""])
def test_looks_and_articles_name_no_thing(tiny, prompt):
    line = nothing_known(prompt, tiny, "tiny")
    assert line is not None and "tiny can draw" in line and "\n" not in line
    assert line.count('"') == 8, "the prompt and three examples"
    for example in line.split('"')[3::2]:
        assert tiny.unknown_words(example) == [] and nothing_known(example, tiny, "tiny") is None


def test_the_nearest_words_lead_the_examples(tiny):
    line = nothing_known("a wind mil with two elefants", tiny, "tiny")
    assert "it does not know wind, mil, two, elefants; nearest known words:" in line
    assert '"a red windmill"' in line and "elephant" in line
    assert "does not know" not in nothing_known("a red", tiny, "tiny")


def test_a_long_prompt_is_quoted_in_part(tiny):
    assert len(nothing_known("zork " * 4000, tiny, "tiny")) < 600


def test_vocabularies_of_qualifiers_and_small_ones():
    """Where no word names a thing nothing can be asked for; where few do, there are fewer examples."""
    assert nothing_known("zork", WordTokenizer(build_tokenizer(QUALIFIERS), 8), "m") is None
    assert 'write for instance "a red mug" (all' in nothing_known(
        "zork", WordTokenizer(build_tokenizer(["a", "red", "mug"]), 8), "m"
    )
    assert '"an apple"' in nothing_known("zork", WordTokenizer(build_tokenizer(["apple"]), 8), "m")
