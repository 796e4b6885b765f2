"""Tokenizer files -> what GGUF says about tokens: byte-level BPE with a pre-tokenizer that llama.cpp knows by name.

Read from `tokenizer.json` (or `vocab.json` and `merges.txt`), `tokenizer_config.json` and `chat_template.jinja` of a model
folder; nothing is loaded through transformers, so that an export needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from phiforge.core.errors import ConfigError, DataError
from phiforge.data import pretokenizers
from phiforge.data.vocabulary import TURN_END, pair, read_folder

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # llama.cpp's token types
DIGITS_THEN_BYTES = "starcoder"  # each digit apart, then GPT-2's pattern
TURN_ENDS = (TURN_END, "<|eot_id|>")


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
    normalizer: Literal["", "NFC", "NFKC"]  # "" or a Unicode normal form that the tokenizer applies and llama.cpp does not


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The vocabulary of a model folder whose embedding has `size` rows.

    Raises DataError where files are missing or broken, ConfigError where llama.cpp has no such tokenizer.
    """
    spec, settings = read_folder(folder)
    model = spec["model"]
    tokens, types, padded = _tokens(folder, model["vocab"], spec.get("added_tokens") or [], size)
    ids = {token: index for index, token in enumerate(tokens)}
    bos_id = _special(settings, "bos_token", ids)
    eot_id = _special(settings, "eot_token", ids)
    template = settings.get("chat_template")
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=[" ".join(pair(merge)) for merge in model.get("merges", [])],
        pre=_pre_tokenizer(folder, spec),
        bos_id=bos_id,
        eos_id=_special(settings, "eos_token", ids),
        eot_id=next((ids[name] for name in TURN_ENDS if name in ids), None) if eot_id is None else eot_id,
        pad_id=_special(settings, "pad_token", ids),
        add_bos=bos_id is not None and _adds_bos(spec, settings, tokens[bos_id]),
        chat_template=template if isinstance(template, str) else None,
        padded=padded,
        normalizer=_normalizer(folder, spec.get("normalizer")),
    )


def _tokens(path: Path, vocab: Mapping[str, int], added: list[dict[str, Any]], size: int) -> tuple[list[str], list[int], int]:
    names: dict[int, str] = {index: token for token, index in vocab.items()}
    kinds: dict[int, int] = dict.fromkeys(names, NORMAL)
    for token in added:
        names[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    if (top := max(names, default=-1)) >= size:
        raise DataError(
            f"{path}: token id {top:,} has no row in an embedding of {size:,}", fix="take the tokenizer that the model was trained with"
        )
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


def _normalizer(path: Path, normalizer: Mapping[str, Any] | None) -> Literal["", "NFC", "NFKC"]:
    if not normalizer or (normalizer.get("type") == "Sequence" and not normalizer.get("normalizers")):
        return ""
    if normalizer.get("type") in ("NFC", "NFKC"):
        return "NFC" if normalizer["type"] == "NFC" else "NFKC"
    raise ConfigError(
        f"{path}: llama.cpp does not apply a {normalizer.get('type')} normalizer", fix="train with a tokenizer that does not normalize"
    )


def _pre_tokenizer(path: Path, spec: Mapping[str, Any]) -> str:
    """llama.cpp's name of the way this tokenizer cuts text."""
    block = spec.get("pre_tokenizer") or {}
    name, _ = pretokenizers.from_json(block)
    if name == pretokenizers.WHITESPACE:
        raise ConfigError(f"{path}: its tokenizer drops blanks, which llama.cpp can't", fix="pre_tokenizer=llama-bpe exports")
    parts = block.get("pretokenizers", [])
    if not name and [part["type"] for part in parts] == ["Digits", "ByteLevel"]:
        digits, level = parts
        plain = digits.get("individual_digits") and level.get("use_regex", True) and not level.get("add_prefix_space", True)
        name = DIGITS_THEN_BYTES if plain else ""
    if not name:
        known = ", ".join([*pretokenizers.PATTERNS, DIGITS_THEN_BYTES])
        raise ConfigError(f"{path}: llama.cpp knows no pre-tokenizer that cuts text as this tokenizer does", fix=f"known are {known}")
    return name
