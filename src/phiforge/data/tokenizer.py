"""Byte-level BPE: text <-> ids. tiktoken does the work with our merges, `tokenizers` is the reference and the fallback.

Documents are ordinary text: what looks like a special token in them never becomes one. Control tokens are placed by
whoever packs or renders, by id.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from phiforge.core.errors import DataError
from phiforge.core.hardware import cpu_count
from phiforge.data import pretokenizers, vocabulary
from phiforge.data.vocabulary import SPECIAL_TOKENS as SPECIAL_TOKENS

# fancy-regex, below tiktoken and rustbpe, runs out of stack on `\s+(?!\S)` over some 300,000 spaces: those texts go the slow way.
_LONG_RUN = 50_000
_SPACES = re.compile(r"\s+")
_PIECE = 1 << 18  # characters of a long text that one thread takes


def has_long_blank(text: str) -> bool:
    """Whether there is a run of at least 2 * 50,000 blanks: looks at every 50,000th character only."""
    for at in range(0, len(text), _LONG_RUN):
        if text[at].isspace():
            run = _SPACES.match(text, at)
            if run is not None and run.end() - at >= _LONG_RUN:
                return True
    return False


_LINE_START = re.compile(r"\n(?=\S)")


class Tokenizer:
    """A byte-level BPE tokenizer, ours or a borrowed one of GPT-2's or Qwen2's form.

    pre: llama.cpp's name of the pre-tokenizer, "" when it has none. fast: whether tiktoken does the encoding.
    """

    def __init__(self, spec: dict[str, Any], settings: dict[str, Any], *, source: str = "tokenizer") -> None:
        self.spec, self.settings = spec, settings
        self.pre, self._pattern = pretokenizers.from_json(spec.get("pre_tokenizer"))
        self._slow = tokenizers.Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
        self._slow.encode_special_tokens = True
        self._slow.no_padding()
        self._slow.no_truncation()
        self.pieces = vocabulary.piece_bytes(spec, source)
        self.specials: dict[str, int] = {token["content"]: token["id"] for token in spec.get("added_tokens", []) if token.get("special")}
        self._special_ids = frozenset(self.specials.values())
        self._special_pattern = re.compile("|".join(re.escape(s) for s in sorted(self.specials, key=len, reverse=True)) or r"(?!)")
        self.bos_id, self.eos_id, self.pad_id, self.eot_id = vocabulary.roles(spec, settings, self.specials)
        words = [token["content"] for token in spec.get("added_tokens", []) if not token.get("special")]
        self._added_words = re.compile("|".join(map(re.escape, words))) if words else None
        self._nfc = (spec.get("normalizer") or {}).get("type") == "NFC"
        self._fast = vocabulary.tiktoken_encoding(spec, self._pattern)
        self._after_blank = frozenset(settings.get("tokens_after_blank") or ()) if self.lossy else frozenset()

    # ---- files

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """From a folder with tokenizer.json, or vocab.json + merges.txt. Raises DataError."""
        spec, settings = vocabulary.read_folder(Path(folder))
        return cls(spec, settings, source=str(folder))

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja."""
        vocabulary.write_folder(folder, self.spec, self.settings)

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides the ids: vocabulary, merges, pre-tokenizer, normaliser, special tokens."""
        parts = {key: self.spec.get(key) for key in ("model", "pre_tokenizer", "normalizer", "added_tokens")}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    # ---- facts

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: the largest id plus one."""
        return len(self.pieces)

    @property
    def fast(self) -> bool:
        """Whether tiktoken encodes (`tokenizers` otherwise)."""
        return self._fast is not None

    @property
    def lossy(self) -> bool:
        """Whether encoding drops blanks (pre-tokenizer `whitespace`): decoding then guesses them, token by token."""
        return self.pre == pretokenizers.WHITESPACE

    @property
    def add_bos(self) -> bool:
        """Whether a text begins with `bos_id`: true for ours; a borrowed one says so in its settings."""
        return bool(self.settings.get("add_bos_token", False))

    @property
    def chat_template(self) -> str | None:
        """The jinja text, where there is one."""
        return self.settings.get("chat_template")

    def __len__(self) -> int:
        return self.vocab_size

    # ---- text -> ids

    def encode(self, text: str, *, specials: bool = False) -> np.ndarray:
        """Ids (T,) int64. Special tokens written in `text` stay text unless `specials` (for rendered templates)."""
        if specials:
            return self._encode_with_specials(text)
        return self._raw(text).astype(np.int64)

    def _encode_with_specials(self, text: str) -> np.ndarray:
        parts, at = [], 0
        for match in self._special_pattern.finditer(text):
            parts += [self.encode(text[at : match.start()]), np.array([self.specials[match.group()]])]
            at = match.end()
        return np.concatenate([*parts, self.encode(text[at:])]).astype(np.int64)

    def encode_batch(self, texts: Sequence[str], *, threads: int | None = None) -> list[np.ndarray]:
        """Ids of each text, int64, on several threads when there is enough to do (tiktoken releases the interpreter)."""
        return [ids.astype(np.int64) for ids in self.raw_batch(texts, threads=threads)]

    def raw_batch(self, texts: Sequence[str], *, threads: int | None = None) -> list[np.ndarray]:
        """As `encode_batch`, ids as uint32."""
        threads = threads or cpu_count()
        if threads == 1 or sum(map(len, texts)) < 2 * _PIECE:
            return [self._raw(text) for text in texts]
        cut = [self._cut(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            done = iter(list(pool.map(self._raw, [piece for pieces in cut for piece in pieces], chunksize=1)))
        return [np.concatenate([next(done) for _ in pieces]) for pieces in cut]

    def _cut(self, text: str) -> list[str]:
        if len(text) < 2 * _PIECE or self._fast is None:
            return [text]
        return list(cut_at_lines(text, _PIECE))

    def _raw(self, text: str) -> np.ndarray:
        if not text:
            return np.empty(0, np.uint32)
        if self._fast is None or not self._goes_fast(text):
            return self.encode_reference(text).astype(np.uint32)
        return self._fast.encode_to_numpy(text, disallowed_special=())

    def _goes_fast(self, text: str) -> bool:
        if self._nfc and not unicodedata.is_normalized("NFC", text):
            return False
        return not has_long_blank(text) and (self._added_words is None or self._added_words.search(text) is None)

    def encode_reference(self, text: str) -> np.ndarray:
        """The same ids from `tokenizers`, int64: what the fast way is held against."""
        return np.array(self._slow.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    # ---- ids -> text

    def decode(self, ids: Iterable[int], *, specials: bool = False) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD; special tokens are left out unless `specials`.

        From a lossy tokenizer: a blank before each token that mostly stood after one in the text it was learnt from.
        """
        return self.decode_bytes(ids, specials=specials).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int], *, specials: bool = False) -> bytes:
        """The bytes behind `ids` (for streaming, where a character may come in several tokens). Raises DataError for an unknown id."""
        out = []
        for token in ids:
            token = int(token)
            if not 0 <= token < len(self.pieces):
                raise DataError(f"id {token} is outside the vocabulary of {len(self.pieces):,}")
            if specials or token not in self._special_ids:
                out.append(b" " + self.pieces[token] if token in self._after_blank else self.pieces[token])
        return b"".join(out)


def cut_at_lines(text: str, size: int) -> Iterator[str]:
    """Pieces of `size` to 2 * `size` characters (longer where no border comes) that encode on their own to what the whole encodes to.

    All our patterns end a word between a line feed and a character that is no blank: no alternative of theirs goes on past a line feed
    except through blanks.
    """
    start = 0
    while len(text) - start > 2 * size:
        border = _LINE_START.search(text, start + size)
        if border is None:
            break
        yield text[start : border.end()]
        start = border.end()
    yield text[start:]


def bytes_per_token(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """UTF-8 bytes of `texts` per token: higher is denser."""
    size = tokens = 0
    for text in texts:
        size += len(text.encode("utf-8"))
        tokens += len(tokenizer.encode(text))
    return size / tokens if tokens else float("nan")
