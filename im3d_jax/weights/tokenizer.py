"""The small model's word-level tokenizer, kept in a `tokenizer.json` that the `tokenizers` library reads."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers


PADDING, START, UNKNOWN = "[PAD]", "[START]", "[UNK]"


def build_tokenizer(words: Iterable[str]) -> str:
    """The JSON of a tokenizer that knows `words`; they are lower-cased and numbered in sorted order."""
    known = [PADDING, START, UNKNOWN, *sorted({word.lower() for word in words})]
    return _to_json(_assemble({word: i for i, word in enumerate(known)}))


def _assemble(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("removed")]
    )
    return tokenizer


def _to_json(tokenizer: tokenizers.Tokenizer) -> str:
    return json.dumps(json.loads(tokenizer.to_str()), indent=1)


def _vocabulary(text: str) -> dict[str, int]:
    # Checked here, because the library reports damage by bare exceptions.
    data = json.loads(text)
    model = data.get("model") if isinstance(data, dict) else None
    kind = model.get("type") if isinstance(model, dict) else None
    if kind != "WordLevel":
        raise ValueError(f"tokenizer.json must hold a WordLevel model, found {str(kind)[:40]}")
    words = model.get("vocab")
    if not isinstance(words, dict) or sorted(map(repr, words.values())) != sorted(
        map(repr, range(len(words)))
    ):
        raise ValueError("tokenizer.json must number its words 0, 1, 2, ... in model.vocab")
    if [words.get(word) for word in (PADDING, START, UNKNOWN)] != [0, 1, 2]:
        raise ValueError(f"tokenizer.json must hold the words {PADDING}, {START} and {UNKNOWN} as 0, 1 and 2")
    return words


class WordTokenizer:
    """Prompts to fixed-length rows of word numbers; words it does not know are dropped.

    Row 0 is padding and 1 starts every prompt, so a row of a lone 1 means "no prompt".

    Raises:
        ValueError: If the text is not the JSON of a word-level tokenizer with the special words in front.
    """

    def __init__(self, text: str, length: int):
        self._ids = _vocabulary(text)
        self._tokenizer = _assemble(self._ids)
        self.length = length

    @classmethod
    def load(cls, path: str | pathlib.Path, length: int) -> WordTokenizer:
        """Reads a `tokenizer.json`."""
        return cls(pathlib.Path(path).read_text(encoding="utf-8"), length)

    @property
    def json(self) -> str:
        """The tokenizer as text, as `build_tokenizer` wrote it."""
        return _to_json(self._tokenizer)

    def words(self) -> list[str]:
        """All words it knows, sorted."""
        return sorted(word for word in self._ids if not word.startswith("["))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that it drops, in order; the whole prompt if there is no word in it."""
        encoding = self._tokenizer.encode(prompt)
        if not encoding.ids:
            return [prompt.strip()] if prompt.strip() else []
        unknown = self._ids[UNKNOWN]
        return [prompt[a:b] for i, (a, b) in zip(encoding.ids, encoding.offsets, strict=True) if i == unknown]

    def __call__(self, prompts: Iterable[str]) -> np.ndarray:
        """Prompts to [B, length] int32; longer prompts lose their tail."""
        prompts = list(prompts)
        rows = np.full((len(prompts), self.length), self._ids[PADDING], np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            ids = [i for i in self._tokenizer.encode(prompt).ids if i != self._ids[UNKNOWN]]
            ids = [self._ids[START], *ids][: self.length]
            row[: len(ids)] = ids
        return rows
