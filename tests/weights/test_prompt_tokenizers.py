"""CLIP's and T5's tokenizers on small vocabularies: rows, files in every form, and transformers' as reference."""

import json

import numpy as np
import pytest
import tokenizers

from im3d_jax.errors import WeightsError
from im3d_jax.weights.prompt_tokenizers import load_clip_tokenizer, load_t5_tokenizer


START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = ["r e", "re d</w>", "m u", "mu g</w>", "a n", "an d</w>", "' s</w>", "d o", "t s</w>", "do ts</w>"]
PROMPTS = [
    "a red mug",
    "",
    "A  RED\tmug, it's red!",
    "Zebra 42 dots  and Ünïcode — ☃",
    "red mug " * 20,
]


def alphabet():
    """Characters that stand for the 256 bytes, in the order of CLIP's vocabulary, without regard to it."""
    return sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


@pytest.fixture(scope="module")
def vocabulary():
    tokens = [*alphabet(), *(c + "</w>" for c in alphabet()), *("".join(m.split(" ")) for m in MERGES), START, END]
    return {token: i for i, token in enumerate(tokens)}


@pytest.fixture
def clip_folder(vocabulary, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return tmp_path


PIECES = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁", -2.0], ["▁red", -3.0], ["▁mug", -3.5], ["s", -4.0]]
PIECES += [["▁a", -3.2], ["re", -5.0], ["d", -6.0], ["▁r", -5.5], ["e", -6.0], ["m", -6.1], ["u", -6.2], ["g", -6.3]]


def t5_file(folder, change=lambda data: None):
    data = {"version": "1.0", "normalizer": None, "model": {"type": "Unigram", "unk_id": 2, "vocab": [*PIECES]}}
    change(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return folder


def test_rows_of_clip(clip_folder, vocabulary):
    tokenizer = load_clip_tokenizer(clip_folder, 12)
    tokens, mask = tokenizer(["a red Mug", "", "mug " * 30])
    start, end = vocabulary[START], vocabulary[END]
    words = [vocabulary[word] for word in ("a</w>", "red</w>", "mug</w>")]
    assert tokens.dtype == np.int32 and tokens.shape == mask.shape == (3, 12)
    assert tokens[0].tolist() == [start, *words, *[end] * 8] and mask[0].sum() == 5
    assert tokens[1].tolist() == [start, *[end] * 11]
    assert tokens[2].tolist() == [start, *[words[2]] * 10, end] and mask[2].all()
    assert tokenizer.lost_text("mug " * 11 + "Red ") == "mug Red" and tokenizer.lost_text("a red mug") == ""


def test_special_tokens_cannot_be_typed(clip_folder, vocabulary):
    tokens, mask = load_clip_tokenizer(clip_folder, 30)([f"{START}{END}"])
    inside = tokens[0][mask[0]][1:-1]
    assert len(inside) and not {vocabulary[START], vocabulary[END]} & set(inside.tolist())


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("token", ["!", {"content": "!", "lstrip": False}])
def test_padding_token_of_the_folder(clip_folder, vocabulary, name, token):
    (clip_folder / name).write_text(json.dumps({"pad_token": token}))
    tokens, mask = load_clip_tokenizer(clip_folder, 6)(["red"])
    assert tokens[0, 3:].tolist() == [vocabulary["!"]] * 3 and mask[0].tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("merges", [MERGES, [merge.split(" ") for merge in MERGES]])
def test_every_form_of_file_gives_the_same_rows(clip_folder, vocabulary, merges, tmp_path_factory):
    single = tmp_path_factory.mktemp("single") / "tokenizer.json"
    single.write_text(json.dumps({"model": {"type": "BPE", "vocab": vocabulary, "merges": merges}}))
    expected = load_clip_tokenizer(clip_folder, 20)(PROMPTS)
    for path in (single, single.parent):
        for found, wanted in zip(load_clip_tokenizer(path, 20)(PROMPTS), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_rows_of_t5(tmp_path):
    tokenizer = load_t5_tokenizer(t5_file(tmp_path), 8)
    tokens, mask = tokenizer(["a red mugs", "", "red " * 9])
    assert tokens[0].tolist() == [7, 4, 5, 6, 1, 0, 0, 0] and mask[0].tolist() == [True] * 5 + [False] * 3
    assert tokens[1].tolist() == [1] + [0] * 7
    assert tokens[2].tolist() == [4] * 7 + [1]
    assert tokenizer.lost_text("red " * 9) == "red red"


@pytest.mark.parity
def test_clip_as_in_transformers(clip_folder, vocabulary):
    transformers = pytest.importorskip("transformers")
    pairs = [tuple(merge.split(" ")) for merge in MERGES]
    theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=pairs)
    expected = theirs(PROMPTS, padding="max_length", max_length=24, truncation=True)
    tokens, mask = load_clip_tokenizer(clip_folder, 24)(PROMPTS)
    np.testing.assert_array_equal(tokens, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])
    theirs.save_pretrained(clip_folder / "saved")
    again, _ = load_clip_tokenizer(clip_folder / "saved", 24)(PROMPTS)
    np.testing.assert_array_equal(again, tokens)


@pytest.mark.parity
def test_t5_as_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.T5Tokenizer(vocab=[tuple(piece) for piece in PIECES], extra_ids=0)
    expected = theirs(PROMPTS, padding="max_length", max_length=24, truncation=True)
    theirs.save_pretrained(tmp_path)
    tokens, mask = load_t5_tokenizer(tmp_path, 24)(PROMPTS)
    np.testing.assert_array_equal(tokens, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda folder: (folder / "merges.txt").unlink(), "merges.txt: the file is missing"),
        (lambda folder: (folder / "vocab.json").unlink(), "tokenizer.json: the file is missing"),
        (lambda folder: (folder / "vocab.json").write_text("{"), "not readable as JSON"),
        (lambda folder: (folder / "vocab.json").write_text('{"a": %s}' % ("1" * 5000)), "not readable as JSON"),
        (lambda folder: (folder / "vocab.json").write_text('{"a": 1}'), "number its tokens"),
        (lambda folder: (folder / "vocab.json").write_text('{"a": 0}'), "no token <.startoftext.>"),
        (lambda folder: (folder / "merges.txt").write_text("q z</w>\n"), "merge 'q z</w>' joins unknown"),
        (lambda folder: (folder / "merges.txt").write_bytes(b"\xff\xfe"), "not readable as UTF-8"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), "must hold a JSON object"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"model": {"merges": 3}}'), "must list its merges"),
        (
            lambda folder: (folder / "tokenizer.json").write_text(
                json.dumps({"model": {"vocab": json.loads((folder / "vocab.json").read_text()), "merges": [5]}})
            ),
            "merge '5' joins unknown",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text('{"model": {"type": "Other"}}'),
            "a BPE model, found",
        ),
    ],
)
def test_refused_clip_files(clip_folder, change, message):
    change(clip_folder)
    with pytest.raises(WeightsError, match=message) as error:
        load_clip_tokenizer(clip_folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data["model"].update(type="BPE"), "a Unigram model, found BPE"),
        (lambda data: data["model"].update(vocab=PIECES[3:]), "must list <pad>"),
        (lambda data: data["model"].update(vocab={"a": 1}), "must list <pad>"),
        (lambda data: data["model"].update(vocab=[["a"]]), "not a piece with a score"),
        (lambda data: data.update(normalizer={"precompiled_charsmap": "?"}), "character map is damaged"),
    ],
)
def test_refused_t5_files(tmp_path, change, message):
    with pytest.raises(WeightsError, match=message):
        load_t5_tokenizer(t5_file(tmp_path, change))


def test_sentencepiece_alone_is_explained(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(WeightsError, match="holds only spiece.model: write a tokenizer.json"):
        load_t5_tokenizer(tmp_path)


def test_lengths_without_room_are_refused(clip_folder):
    with pytest.raises(ValueError, match="room for its special tokens, got length=1"):
        load_clip_tokenizer(clip_folder, 1)


def test_the_padding_of_files_that_do_not_say(clip_folder):
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (clip_folder / name).unlink(missing_ok=True)
    (plain,), _ = load_clip_tokenizer(clip_folder, 6)(["red"])
    (filled,), mask = load_clip_tokenizer(clip_folder, 6, "!")(["red"])
    bang = json.loads((clip_folder / "vocab.json").read_text())["!"]
    assert (filled[~mask[0]] == bang).all() and (filled[mask[0]] == plain[mask[0]]).all() and bang not in plain
