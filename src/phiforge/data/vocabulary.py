"""Tokenizer files: the vocabulary, merges and settings of a byte-level BPE, read, checked, built and written."""

from __future__ import annotations

import heapq
import json
from pathlib import Path
from typing import Any

import tiktoken

from phiforge.core.atomic import write_json, write_text
from phiforge.core.errors import DataError
from phiforge.data import pretokenizers

PAD, BOS, EOS, TURN_START, TURN_END = SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_FORM = "phiforge loads byte-level BPE: tokenizer.json, or vocab.json with merges.txt"


def build_spec(pieces: list[bytes], pre: str) -> dict[str, Any]:
    """tokenizer.json as data, from pieces in order of rank (256 bytes first, then the merged ones).

    Special tokens take ids 0..4, piece k takes id 5 + k. A text that `tokenizers` encodes with special tokens begins with <|bos|>.
    """
    alphabet = pretokenizers.byte_alphabet()
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    written = ["".join(alphabet[b] for b in piece) for piece in pieces]
    vocab = {name: i for i, name in enumerate((*SPECIAL_TOKENS, *written))}
    merges = [["".join(alphabet[b] for b in half) for half in halves(piece, ranks)] for piece in pieces[256:]]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bos = {"SpecialToken": {"id": BOS, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": name, **flags} for i, name in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": pretokenizers.to_json(pre),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {BOS: {"id": BOS, "ids": [SPECIAL_TOKENS.index(BOS)], "tokens": [BOS]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def halves(piece: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two pieces whose merge made `piece`: what the merges before it make of its bytes.

    The lowest rank goes first, the leftmost of equals. A heap of pairs and a chain of parts keep a piece of n bytes at n log n.
    """
    limit, n = ranks[piece], len(piece)
    end = list(range(1, n + 1))  # the part that begins at i ends at end[i]; 0 once it is merged away
    before = list(range(-1, n - 1))
    waiting: list[tuple[int, int, int]] = []

    def offer(start: int) -> None:
        if start >= 0 and end[start] < n:
            stop = end[end[start]]
            rank = ranks.get(piece[start:stop], limit)
            if rank < limit:
                heapq.heappush(waiting, (rank, start, stop))

    for start in range(n - 1):
        offer(start)
    while waiting:
        _, start, stop = heapq.heappop(waiting)
        middle = end[start]
        if not middle or middle >= n or end[middle] != stop:
            continue  # one of the two has been merged with another since
        end[start], end[middle] = stop, 0
        if stop < n:
            before[stop] = start
        offer(start)
        offer(before[start])
    if end[0] == n or end[end[0]] != n:
        raise ValueError(f"{piece[:40]!r} is not one merge of two earlier pieces")
    return piece[: end[0]], piece[end[0] :]


def our_settings(chat_template: str | None) -> dict[str, Any]:
    """tokenizer_config.json of a tokenizer of ours."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "eot_token": TURN_END,
        "additional_special_tokens": [TURN_START, TURN_END],
        "clean_up_tokenization_spaces": False,
        **({"chat_template": chat_template} if chat_template else {}),
    }


def write_folder(folder: Path, spec: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write the files that transformers, llama.cpp's converters and `read_folder` expect."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "tokenizer.json", json.dumps(spec, ensure_ascii=False, indent=1) + "\n")
    config = {key: value for key, value in settings.items() if key != "chat_template"}
    write_json(folder / "tokenizer_config.json", config)
    names = ("bos_token", "eos_token", "pad_token", "additional_special_tokens")
    write_json(folder / "special_tokens_map.json", {name: config[name] for name in names if config.get(name)})
    if settings.get("chat_template"):
        write_text(folder / "chat_template.jinja", settings["chat_template"])


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tokenizer.json, tokenizer_config.json) as data. Raises DataError: missing, damaged, or no byte-level BPE."""
    settings = _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    template = folder / "chat_template.jinja"
    if template.is_file():
        settings["chat_template"] = template.read_text(encoding="utf-8")
    if (folder / "tokenizer.json").is_file():
        spec = _read_json(folder / "tokenizer.json")
    else:
        spec = _from_two_files(folder, settings)
    model = spec.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise DataError(f"{folder}: the tokenizer is no BPE", fix=_FORM)
    if "ByteLevel" not in json.dumps(spec.get("pre_tokenizer")):
        raise DataError(f"{folder}: the tokenizer is not byte-level", fix=_FORM)
    return spec, settings


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({type(error).__name__})", fix="fetch or make it again") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: a JSON object was expected, not a {type(data).__name__}")
    return data


def _from_two_files(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """GPT-2's and Qwen2's older form: vocabulary and merges in two files, the pre-tokenizer implied by the class."""
    names = next((pair for pair in _FILES if all((folder / name).is_file() for name in pair)), None)
    if names is None:
        raise DataError(f"{folder}: no tokenizer in it", fix=_FORM)
    vocab = _read_json(folder / names[0])
    lines = (folder / names[1]).read_text(encoding="utf-8").split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    qwen = "qwen2" in str(settings.get("tokenizer_class", "")).lower()
    added = [{"id": int(i), **token} for i, token in settings.get("added_tokens_decoder", {}).items()]
    if not added and "<|endoftext|>" in vocab:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added = [{"id": vocab["<|endoftext|>"], "content": "<|endoftext|>", **flags}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token for token in added if isinstance(token.get("content"), str)],
        "normalizer": {"type": "NFC"} if qwen else None,
        "pre_tokenizer": pretokenizers.to_json("qwen2" if qwen else "gpt-2"),
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def pair(merge: Any) -> tuple[str, str]:
    """A merge of tokenizer.json: ["a", "b"], or "a b" in files of before 2024."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def piece_bytes(spec: dict[str, Any], source: str) -> list[bytes]:
    """The bytes of every id, special tokens as their text; ids that the file leaves out are empty."""
    byte_of = {character: byte for byte, character in enumerate(pretokenizers.byte_alphabet())}
    vocab: dict[str, int] = spec["model"]["vocab"]
    added = {token["content"]: token["id"] for token in spec.get("added_tokens", [])}
    pieces = [b""] * (max([*vocab.values(), *added.values()]) + 1)
    for text, i in vocab.items():
        if text in added:
            continue
        if any(character not in byte_of for character in text):
            raise DataError(f"{source}: {text!r} is no byte-level piece", fix=_FORM)
        pieces[i] = bytes(byte_of[character] for character in text)
    for text, i in added.items():
        pieces[i] = text.encode("utf-8")
    return pieces


def roles(spec: dict[str, Any], settings: dict[str, Any], specials: dict[str, int]) -> tuple[int, int, int, int]:
    """(bos, eos, pad, end of turn) ids. Distinct in ours; a borrowed tokenizer falls back on its end-of-text."""

    def named(key: str) -> int | None:
        token = settings.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        return specials.get(token) if isinstance(token, str) else None

    def first(*ids: int | None) -> int | None:
        return next((i for i in ids if i is not None), None)

    end = first(*(specials.get(name) for name in ("<|endoftext|>", "</s>", "<|end_of_text|>", EOS)), *specials.values())
    eos = first(named("eos_token"), end)
    if eos is None:
        raise DataError("the tokenizer has no special token to end a text with", fix="name eos_token in tokenizer_config.json")
    turn = first(named("eot_token"), specials.get(TURN_END), specials.get("<|eot_id|>"), eos)
    return first(named("bos_token"), eos) or 0, eos, first(named("pad_token"), eos) or 0, turn or 0


def tiktoken_encoding(spec: dict[str, Any], pattern: str) -> tiktoken.Encoding | None:
    """An encoding with the same ids, or None where tiktoken's rule (merge the pair whose *result* has the lowest id) would be another.

    It is the same rule when merges stand in the order of their ids, each piece is made by exactly the merge that the file names,
    and nothing else (prefixes, normalisers but NFC) comes between. Texts with added ordinary words in them must go the other way.
    """
    model = spec["model"]
    blocked = any(model.get(key) for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"))
    normaliser = (spec.get("normalizer") or {}).get("type", "NFC")
    added = spec.get("added_tokens", [])
    if not pattern or blocked or normaliser != "NFC":
        return None
    byte_of = {character: byte for byte, character in enumerate(pretokenizers.byte_alphabet())}
    outside = {token["content"] for token in added}
    vocab = {text: i for text, i in model["vocab"].items() if text not in outside}
    ranks = {bytes(byte_of[c] for c in text): i for text, i in vocab.items()}
    last = -1
    made: set[str] = set()
    for merge in model["merges"]:
        left, right = pair(merge)
        i = vocab.get(left + right, -1)
        if i <= last or left not in vocab or right not in vocab:
            return None
        last = i
        made.add(left + right)
    if any(len(text) > 1 and text not in made for text in vocab) or sum(len(text) == 1 for text in vocab) != 256:
        return None
    return tiktoken.Encoding(spec.get("name", "phiforge"), pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
