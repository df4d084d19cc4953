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
    model = models.WordLevel({word: i for i, word in enumerate(known)}, unk_token=UNKNOWN)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("removed")]
    )
    return json.dumps(json.loads(tokenizer.to_str()), indent=1)


class WordTokenizer:
    """Prompts to fixed-length rows of word numbers; words it does not know are dropped.

    Row 0 is padding and 1 starts every prompt, so a row of a lone 1 means "no prompt".

    Raises:
        ValueError: If the text is not a tokenizer's JSON or lacks the special words.
    """

    def __init__(self, text: str, length: int):
        data = json.loads(text)
        kind = data.get("model", {}).get("type") if isinstance(data, dict) else None
        if kind != "WordLevel":
            raise ValueError(f"tokenizer.json must hold a WordLevel model, found {kind}")
        self._tokenizer = tokenizers.Tokenizer.from_str(text)
        self._ids = self._tokenizer.get_vocab()
        if any(word not in self._ids for word in (PADDING, START, UNKNOWN)):
            raise ValueError(f"tokenizer.json must hold the words {PADDING}, {START} and {UNKNOWN}")
        self.length = length

    @classmethod
    def load(cls, path: str | pathlib.Path, length: int) -> WordTokenizer:
        """Reads a `tokenizer.json`."""
        return cls(pathlib.Path(path).read_text(), length)

    @property
    def json(self) -> str:
        """The tokenizer as text, as `build_tokenizer` wrote it."""
        return json.dumps(json.loads(self._tokenizer.to_str()), indent=1)

    def words(self) -> list[str]:
        """All words it knows, sorted."""
        return sorted(word for word in self._ids if not word.startswith("["))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that it drops, in order."""
        encoding = self._tokenizer.encode(prompt)
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
