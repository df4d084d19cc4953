"""The word-level tokenizer: what it keeps, what it drops, and which files it refuses."""

import json

import numpy as np
import pytest

from im3d_jax.weights import WordTokenizer, build_tokenizer


WORDS = ["mug", "red", "Dots", "with", "white", "a"]


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer(build_tokenizer(WORDS), length=6)


def test_rows_start_with_the_start_word_and_end_with_padding(tokenizer):
    known = ["[PAD]", "[START]", "[UNK]", *sorted(word.lower() for word in WORDS)]
    rows = tokenizer(["a red mug", ""])
    assert rows.dtype == np.int32 and rows.shape == (2, 6)
    assert [known[i] for i in rows[0]] == ["[START]", "a", "red", "mug", "[PAD]", "[PAD]"]
    assert rows[1].tolist() == [1, 0, 0, 0, 0, 0]


def test_case_and_punctuation_do_not_matter(tokenizer):
    np.testing.assert_array_equal(tokenizer(["A Red,  mug!", "a (red) mug."]), tokenizer(["a red mug"] * 2))


def test_unknown_words_are_dropped_and_named_as_written(tokenizer):
    prompt = "a red Zebra mug, Quux!"
    np.testing.assert_array_equal(tokenizer([prompt]), tokenizer(["a red mug"]))
    assert tokenizer.unknown_words(prompt) == ["Zebra", "Quux"]
    assert tokenizer.unknown_words("a red mug.") == []
    assert tokenizer.unknown_words(" !!! ") == ["!!!"] and tokenizer.unknown_words("  ") == []
    np.testing.assert_array_equal(tokenizer(["zebra"]), tokenizer([""]))


def test_the_special_words_cannot_be_typed(tokenizer):
    np.testing.assert_array_equal(tokenizer(["[START] [PAD] red"]), tokenizer(["red"]))


def test_long_prompts_lose_their_tail(tokenizer):
    rows = tokenizer(["red " * 50, "red red red red red mug"])
    assert rows.shape == (2, 6)
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[0, 1:] == rows[0, 1]).all()


def test_words_and_text_round_trip(tokenizer, tmp_path):
    assert tokenizer.words() == sorted(word.lower() for word in WORDS)
    (tmp_path / "tokenizer.json").write_text(tokenizer.json)
    again = WordTokenizer.load(tmp_path / "tokenizer.json", 6)
    assert again.json == tokenizer.json == build_tokenizer(WORDS)
    np.testing.assert_array_equal(again(["a red mug"]), tokenizer(["a red mug"]))


def _altered(change):
    data = json.loads(build_tokenizer(WORDS))
    change(data["model"])
    return json.dumps(data)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "Expecting"),
        ("[]", "WordLevel"),
        ('{"model": 3}', "WordLevel"),
        (_altered(lambda model: model.update(type="BPE")), "found BPE"),
        (_altered(lambda model: model.update(vocab=["a"])), "number its words"),
        (_altered(lambda model: model["vocab"].update(red=99)), "number its words"),
        (_altered(lambda model: model["vocab"].update(red="4")), "number its words"),
        (_altered(lambda model: model["vocab"].update({"[PAD]": 1, "[START]": 0})), r"\[START\]"),
    ],
)
def test_refused_files(text, message):
    with pytest.raises(ValueError, match=message):
        WordTokenizer(text, 6)
