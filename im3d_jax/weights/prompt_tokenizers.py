"""Tokenizers of CLIP and T5 from the files beside their weights, run by the `tokenizers` library.

Only the vocabulary is read from the files. What stands around it (normalisation, splitting, special tokens) belongs to
the model and is built here, so that a damaged or strange file is found at the start; special tokens cannot be typed.
"""

from __future__ import annotations

import base64
import binascii
import pathlib
from collections.abc import Iterable

import numpy as np
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

from im3d_jax.errors import WeightsError
from im3d_jax.weights.tensor_files import read_json


# OpenAI's pattern (CLIP, simple_tokenizer.py): contractions, runs of letters, single digits, runs of the rest.
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class PromptTokenizer:
    """Prompts to fixed-length rows of token numbers: start token (if any), words, end token, padding.

    Attributes:
        length: Tokens of a row; longer prompts lose words at their end, never the end token.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, length: int, *, start: int | None, end: int, padding: int):
        self._tokenizer = tokenizer
        self._start = [] if start is None else [start]
        self._end, self._padding = end, padding
        self.length = length
        if length < len(self._start) + 1:
            raise ValueError(f"a row needs room for its special tokens, got length={length}")

    @property
    def _room(self) -> int:
        return self.length - len(self._start) - 1

    def __call__(self, prompts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [B, length] int32 and mask [B, length], True up to and including the end token."""
        prompts = list(prompts)
        tokens = np.full((len(prompts), self.length), self._padding, np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, seen, prompt in zip(tokens, mask, prompts, strict=True):
            ids = [*self._start, *self._words(prompt).ids[: self._room], self._end]
            row[: len(ids)], seen[: len(ids)] = ids, True
        return tokens, mask

    def lost_text(self, prompt: str) -> str:
        """The end of a prompt that does not fit, as it was written; empty when all of it fits."""
        lost = self._words(prompt).offsets[self._room :]
        return prompt[lost[0][0] :].strip() if lost else ""

    def _words(self, prompt: str) -> tokenizers.Encoding:
        return self._tokenizer.encode(prompt, add_special_tokens=False)


def load_clip_tokenizer(path: str | pathlib.Path, length: int = 77, padding: str = "<|endoftext|>") -> PromptTokenizer:
    """Reads CLIP's byte-pair tokenizer.

    Args:
        path: A `tokenizer.json`, or a folder with that or with `vocab.json` and `merges.txt` (as diffusers models have
            it). The padding token is taken from `tokenizer_config.json` or `special_tokens_map.json` beside them when
            there is one.
        length: Tokens of a row.
        padding: Token that fills a row where those files do not say (Stable Diffusion 2.1 pads with "!").

    Raises:
        WeightsError: One line: which file is missing or damaged.
    """
    path = pathlib.Path(path)
    folder = path if path.is_dir() else path.parent
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file() or not (folder / "vocab.json").is_file():
        model = _model_of(_read_json(file), file, "BPE")
        vocabulary, merges = model.get("vocab"), model.get("merges")
    else:
        file = folder / "vocab.json"
        vocabulary = _read_json(file)
        lines = _read_text(folder / "merges.txt").splitlines()
        merges = [line for line in lines if line and not line.startswith("#version")]
    if merges is not None and not isinstance(merges, list):
        raise WeightsError(f"{file} must list its merges, found {str(merges)[:40]!r}: copy it again")
    if not isinstance(vocabulary, dict) or sorted(map(repr, vocabulary.values())) != sorted(
        map(repr, range(len(vocabulary)))
    ):
        raise WeightsError(f"{file} must number its tokens 0, 1, 2, ...: copy it again")
    start, end = "<|startoftext|>", "<|endoftext|>"
    padding = _padding_token(folder) or padding
    for token in (start, end, padding):
        if token not in vocabulary:
            raise WeightsError(f"{file} has no token {token}: is it CLIP's?")
    pairs = [_merge(merge, vocabulary, file) for merge in merges or ()]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, unk_token=end, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    numbers = (vocabulary[token] for token in (start, end, padding))
    return PromptTokenizer(tokenizer, length, **dict(zip(("start", "end", "padding"), numbers, strict=True)))


def load_t5_tokenizer(path: str | pathlib.Path, length: int = 128) -> PromptTokenizer:
    """Reads T5's unigram tokenizer from a `tokenizer.json` or a folder with one.

    Raises:
        WeightsError: One line: the file is missing (a `spiece.model` alone is not read), damaged, or of another model.
    """
    path = pathlib.Path(path)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file() and (file.parent / "spiece.model").is_file():
        raise WeightsError(
            f"{file.parent} holds only spiece.model: write a tokenizer.json once with "
            "transformers.T5TokenizerFast.from_pretrained(folder).save_pretrained(folder)"
        )
    data = _read_json(file)
    pieces = _model_of(data, file, "Unigram").get("vocab")
    vocabulary: list[tuple[str, float]] = []
    for piece in pieces if isinstance(pieces, list) else []:
        match piece:
            case [str(text), int() | float() as score]:
                vocabulary.append((text, float(score)))
            case _:
                raise WeightsError(
                    f"{file}: {str(piece)[:40]!r} of model.vocab is not a piece with a score: copy it again"
                )
    numbers = {text: number for number, (text, _) in enumerate(vocabulary)}
    if not {"<pad>", "</s>", "<unk>"} <= numbers.keys():
        raise WeightsError(f"{file} must list <pad>, </s>, <unk> and their scores in model.vocab: is it T5's?")
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocabulary, numbers["<unk>"], False))
    if (table := _character_map(data.get("normalizer"), file)) is not None:
        tokenizer.normalizer = normalizers.Precompiled(table)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")]
    )
    return PromptTokenizer(tokenizer, length, start=None, end=numbers["</s>"], padding=numbers["<pad>"])


def _merge(merge: object, vocabulary: dict[str, int], file: pathlib.Path) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    match parts:
        case [str(first), str(second)] if {first, second, first + second} <= vocabulary.keys():
            return first, second
    raise WeightsError(f"{file}: the merge {str(merge)[:40]!r} joins unknown tokens: copy it again")


def _character_map(normalizer: object, file: pathlib.Path) -> bytes | None:
    """SentencePiece's table of character replacements, wherever the normaliser keeps it."""
    if not isinstance(normalizer, dict):
        return None
    if normalizer.get("type") == "Sequence":
        found = [_character_map(part, file) for part in normalizer.get("normalizers") or ()]
        return next((table for table in found if table is not None), None)
    if not normalizer.get("precompiled_charsmap"):
        return None
    try:
        return base64.b64decode(normalizer["precompiled_charsmap"], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise WeightsError(f"{file}: the character map is damaged ({error}): copy it again") from error


def _padding_token(folder: pathlib.Path) -> str | None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            token = _read_json(folder / name).get("pad_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
    return None


def _model_of(data: dict, file: pathlib.Path, kind: str) -> dict:
    model = data.get("model")
    # Older files leave the type out.
    if not isinstance(model, dict) or model.get("type", kind) != kind:
        found = model.get("type") if isinstance(model, dict) else None
        raise WeightsError(f"{file} must hold a {kind} model, found {str(found)[:40]}")
    return model


def _read_text(file: pathlib.Path) -> str:
    _check_there(file)
    try:
        return file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise WeightsError(f"{file} is not readable as UTF-8 text ({error}): copy it again") from error


def _read_json(file: pathlib.Path) -> dict:
    _check_there(file)
    return read_json(file)


def _check_there(file: pathlib.Path) -> None:
    if not file.is_file():
        raise WeightsError(f"no tokenizer at {file}: the file is missing")
