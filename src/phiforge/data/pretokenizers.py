"""Pre-tokenizer regexes that llama.cpp knows by name (`tokenizer.ggml.pre`), and byte-level BPE's byte alphabet.

The patterns are those of llama.cpp's source (LLAMA_VOCAB_PRE_TYPE_*); originally from GPT-2, Llama 3 and Qwen 2.
"""

from __future__ import annotations

from typing import Any

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_NEW = r"{contractions}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# (?i) would also match the long s (U+017F), which llama.cpp's hand-written form of the pattern does not.
_SPELT_OUT = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_IGNORE_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"

# name in llama.cpp -> the pattern we write, and other spellings of it that are met in tokenizer.json files
PATTERNS: dict[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "llama-bpe": tuple(_NEW.format(contractions=c, digits=r"\p{N}{1,3}") for c in (_SPELT_OUT, _IGNORE_CASE)),
    "qwen2": tuple(_NEW.format(contractions=c, digits=r"\p{N}") for c in (_SPELT_OUT, _IGNORE_CASE)),
}

# Hugging Face's Whitespace followed by bytes: blanks are dropped, so what was encoded does not come back. llama.cpp has no name for it.
WHITESPACE = "whitespace"
_WORDS = r"\w+|[^\w\s]+"


def pattern_of(name: str) -> str:
    """The regex whose matches are the words that merging works on; what it does not match is lost (`whitespace` alone)."""
    return _WORDS if name == WHITESPACE else PATTERNS[name][0]


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's `bytes_to_unicode`).

    Bytes that print stand for themselves, the others for U+0100 onwards in order.

    >>> byte_alphabet()[0x41], byte_alphabet()[0x20]
    ('A', 'Ġ')
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def to_json(name: str) -> dict[str, Any]:
    """The `pre_tokenizer` block of tokenizer.json for a llama.cpp name, or `whitespace`."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if name == "gpt-2":
        return {**level, "use_regex": True}
    if name == WHITESPACE:
        return {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {**level, "use_regex": False}]}
    split = {"type": "Split", "pattern": {"Regex": PATTERNS[name][0]}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, {**level, "use_regex": False}]}


def from_json(block: dict[str, Any] | None) -> tuple[str, str]:
    """(llama.cpp name or "whitespace", pattern) of a `pre_tokenizer` block; ("", "") when it is none that has a name."""
    if not block:
        return "", ""
    if block["type"] == "ByteLevel":
        plain = block.get("use_regex", True) and not block.get("add_prefix_space", True)
        return ("gpt-2", _GPT2) if plain else ("", "")
    parts = block.get("pretokenizers", [])
    if block["type"] != "Sequence" or len(parts) != 2 or parts[1]["type"] != "ByteLevel" or parts[0]["type"] not in ("Split", "Whitespace"):
        return "", ""
    split, level = parts
    if level.get("use_regex", True) or level.get("add_prefix_space", True):
        return "", ""
    if split["type"] == "Whitespace":
        return WHITESPACE, _WORDS
    pattern = split["pattern"].get("Regex", "")
    isolated = split["behavior"] == "Isolated" and not split.get("invert", False)
    if not isolated:
        return "", ""
    return next(((name, pattern) for name, known in PATTERNS.items() if pattern in known), ("", ""))
