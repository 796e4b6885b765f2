"""Tokenizer files -> what GGUF says about tokens: byte-level BPE with a pre-tokenizer that llama.cpp knows by name.

Read from `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` of a model folder; nothing is loaded through
transformers, so that an export needs no torch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phiforge.core.errors import ConfigError, DataError
from phiforge.export.tensors import read_json

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's token types

# How llama.cpp cuts text before merging, by the pattern that the tokenizer's own pre-tokenizer uses. The order of parts counts.
_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {_QWEN2: "qwen2", _LLAMA3: "llama-bpe", _GPT2: "gpt-2"}
DIGITS_THEN_BYTES = "starcoder"  # each digit apart, then GPT-2's pattern


@dataclass(frozen=True)
class Vocabulary:
    """What the file will say about tokens. Ids are None where the tokenizer has no such token."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    pad_id: int | None
    add_bos: bool
    chat_template: str | None
    padded: int  # ids that the model has and the tokenizer does not
    normalizer: str  # "" or a Unicode normal form that the tokenizer applies and llama.cpp does not


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The vocabulary of a model folder whose embedding has `size` rows.

    Raises DataError where files are missing or broken, ConfigError where llama.cpp has no such tokenizer.
    """
    path = folder / "tokenizer.json"
    data = read_json(path)
    model = data.get("model") or {}
    if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise ConfigError(f"{path}: a {model.get('type')} tokenizer is not exported", fix="byte-level BPE is: phiforge tokenizer train")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    tokens, types, padded = _tokens(path, model["vocab"], data.get("added_tokens") or [], size)
    ids = {token: index for index, token in enumerate(tokens)}
    bos_id = _special(config, "bos_token", ids)
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])],
        pre=_pre_tokenizer(path, data),
        bos_id=bos_id,
        eos_id=_special(config, "eos_token", ids),
        eot_id=next((ids[name] for name in ("<|im_end|>", "<|eot_id|>") if name in ids), None),
        pad_id=_special(config, "pad_token", ids),
        add_bos=bos_id is not None and _adds_bos(data, config, tokens[bos_id]),
        chat_template=_chat_template(folder, config),
        padded=padded,
        normalizer=_normalizer(path, data.get("normalizer")),
    )


def _tokens(path: Path, vocab: Mapping[str, int], added: list[dict[str, Any]], size: int) -> tuple[list[str], list[int], int]:
    names: dict[int, str] = {index: token for token, index in vocab.items()}
    kinds: dict[int, int] = dict.fromkeys(names, NORMAL)
    for token in added:
        names[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    if (top := max(names, default=-1)) >= size:
        raise DataError(f"{path}: token id {top:,} has no row in an embedding of {size:,}", fix="take the tokenizer that the model was trained with")
    tokens = [names.get(index, f"[PAD{index}]") for index in range(size)]
    if len(set(tokens)) != size:
        raise DataError(f"{path}: two ids share one token")
    return tokens, [kinds.get(index, UNUSED) for index in range(size)], size - len(names)


def _special(config: Mapping[str, Any], name: str, ids: Mapping[str, int]) -> int | None:
    token = config.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    return ids.get(text) if isinstance(text, str) else None


def _adds_bos(data: Mapping[str, Any], config: Mapping[str, Any], bos: str) -> bool:
    """Whether text is encoded as [bos] text: the tokenizer's template decides, since that is what encoding does."""
    processors = data.get("post_processor") or {}
    for part in processors.get("processors", [processors]):
        if part.get("type") == "TemplateProcessing":
            first = (part.get("single") or [{}])[0]
            return first.get("SpecialToken", {}).get("id") == bos
    return bool(config.get("add_bos_token"))


def _normalizer(path: Path, normalizer: Mapping[str, Any] | None) -> str:
    if not normalizer or (normalizer.get("type") == "Sequence" and not normalizer.get("normalizers")):
        return ""
    if normalizer.get("type") in ("NFC", "NFKC"):
        return str(normalizer["type"])
    raise ConfigError(f"{path}: llama.cpp does not apply a {normalizer.get('type')} normalizer", fix="train with a tokenizer that does not normalize")


def _pre_tokenizer(path: Path, data: Mapping[str, Any]) -> str:
    """llama.cpp's name of the way this tokenizer cuts text."""
    pre = data.get("pre_tokenizer") or {}
    parts = pre.get("pretokenizers", [pre])
    kinds = [part.get("type") for part in parts]
    name = None
    if kinds == ["ByteLevel"] and not parts[0].get("add_prefix_space") and parts[0].get("use_regex", True):
        name = "gpt-2"
    elif kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits") and not parts[1].get("add_prefix_space"):
        name = DIGITS_THEN_BYTES if parts[1].get("use_regex", True) else None
    elif kinds == ["Split", "ByteLevel"] and parts[0].get("behavior") == "Isolated" and not parts[1].get("use_regex", True):
        name = PATTERNS.get((parts[0].get("pattern") or {}).get("Regex", ""))
    if name is None:
        raise ConfigError(f"{path}: llama.cpp knows no pre-tokenizer that cuts text this way", fix=f"known are {', '.join(known_pre_tokenizers())}")
    return name


@functools.cache
def known_pre_tokenizers() -> tuple[str, ...]:
    """The names that an export can write."""
    return (*sorted(PATTERNS.values()), DIGITS_THEN_BYTES)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    return template if isinstance(template, str) else None
