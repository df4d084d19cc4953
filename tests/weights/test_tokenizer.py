"""The word-level tokenizer: what it keeps, what it drops, and which files it refuses."""

import json

import numpy as np
import pytest
import tokenizers

from im3d_jax.weights import WordTokenizer, build_tokenizer


WORDS = ["mug", "red", "Dots", "with", "white", "a"]
ALIASES = {"cup": "mug", "crimson": "red", "polka dot": "dots", "polka dots": "dots", "beside": "with a"}


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


def test_known_words_are_those_that_fit(tokenizer):
    other = WordTokenizer(build_tokenizer(WORDS, ALIASES), length=6)
    assert other.known_words("A crimson Zebra, cups!") == ["a", "red", "mug"]
    assert tokenizer.known_words("zebra") == tokenizer.known_words("[START] [PAD]") == []
    assert tokenizer.known_words("red " * 5 + "mug") == ["red"] * 5


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


def test_aliases_give_the_rows_of_their_words(tokenizer):
    knowing = WordTokenizer(build_tokenizer(WORDS, ALIASES), length=6)
    for prompt, meant in {
        "a Crimson CUP": "a red mug",
        "cup, crimson; polka-dots!": "mug red dots",
        "polka\n DOT dots": "dots dots",
        "beside cup": "with a mug",
    }.items():
        np.testing.assert_array_equal(knowing([prompt]), tokenizer([meant]))
        np.testing.assert_array_equal(knowing([meant]), tokenizer([meant]))
        assert knowing.unknown_words(prompt) == []
    # A part of a longer alias alone is unknown, and so are unknown words around it.
    assert knowing.unknown_words("a polka cup-dotted polka Dotted") == ["polka", "dotted", "polka", "Dotted"]
    assert knowing.words() == tokenizer.words() and knowing.aliases() == dict(sorted(ALIASES.items()))
    assert tokenizer.aliases() == {}
    again = WordTokenizer(knowing.json, 6)
    assert again.json == knowing.json == build_tokenizer(WORDS, ALIASES) and again.aliases() == knowing.aliases()


def test_plurals_count_as_their_singular():
    words = ["bus", "bench", "mug", "a", "hat", "dots", "dog"]
    tokenizer = WordTokenizer(build_tokenizer(words, {"cup": "mug", "puppy": "dog"}), 4)
    np.testing.assert_array_equal(tokenizer(["BUSES benches cups"]), tokenizer(["bus bench mug"]))
    np.testing.assert_array_equal(tokenizer(["Puppies, dog's mug’s"]), tokenizer(["dog dog mug"]))
    assert tokenizer.unknown_words("a dog's mug") == [] and tokenizer.unknown_words("a dog s ies") == ["s", "ies"]
    no_plurals = "as hates muges dot buss mugss".split()
    assert tokenizer.unknown_words(" ".join(no_plurals)) == [word for word in no_plurals if word != "buss"]


def test_what_does_not_fit_is_named_as_written(tokenizer):
    assert tokenizer.lost_text("a red, red zebra red Mug ") == ""
    assert tokenizer.lost_text("a red, red zebra red Mug; Red zebra  dots. ") == "Red zebra  dots."
    knowing = WordTokenizer(build_tokenizer(WORDS, ALIASES), length=6)
    assert knowing.lost_text("red red red red beside mug") == "beside mug", "of two words, one would fit"


def test_the_library_reads_a_file_with_aliases():
    text = build_tokenizer(WORDS, ALIASES)
    library = tokenizers.Tokenizer.from_str(text)
    assert library.encode("A red mug!").ids == [i for i in WordTokenizer(text, 6)(["a red mug"])[0][1:] if i]
    assert library.get_vocab() == json.loads(text)["model"]["vocab"]


def _altered(change):
    data = json.loads(build_tokenizer(WORDS, ALIASES))
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
        (_altered(lambda model: model["vocab"].update(cups=model["vocab"]["mug"])), "number its words"),
        (_altered(lambda model: model.update(aliases=["cup"])), "model.aliases as an object"),
        (_altered(lambda model: model["aliases"].update(white="red")), "'white' is a word of model.vocab"),
        (_altered(lambda model: model["aliases"].update({"[PAD]": "red"})), "is a word of model.vocab"),
        (_altered(lambda model: model["aliases"].update(Ruby="red")), "'Ruby' must be lower-case words"),
        (_altered(lambda model: model["aliases"].update({"ice-cream": "red"})), "without punctuation"),
        (_altered(lambda model: model["aliases"].update({"": "red"})), "'' must be"),
        (_altered(lambda model: model["aliases"].update(ruby="crimson")), "found 'crimson'"),
        (_altered(lambda model: model["aliases"].update(ruby="[UNK]")), r"found '\[UNK\]'"),
        (_altered(lambda model: model["aliases"].update(ruby=4)), "found 4"),
        (_altered(lambda model: model["aliases"].update(ruby=" ")), "found ' '"),
    ],
)
def test_refused_files(text, message):
    with pytest.raises(ValueError, match=message):
        WordTokenizer(text, 6)
