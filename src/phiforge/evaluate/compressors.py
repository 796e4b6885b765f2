"""What a general-purpose compressor makes of a text: xz, in two readings.

`plain_bits_per_byte`: the held-out text compressed by itself. It starts from nothing, so it says how repetitive the text is, and it is
*not* comparable with a trained model, which has read the training text.
`conditional_bits_per_byte`: how many bytes the held-out text adds to the compressed training text,
(len(xz(train + held out)) - len(xz(train))) * 8 / bytes. The compressor has the training text in its dictionary, so this is the figure
to hold beside a trained model's.
"""

from __future__ import annotations

import lzma
from concurrent.futures import ThreadPoolExecutor

_PRESET = 6  # 9 and 9e gave the same bits or up to .003 more on tiny-shakespeare, and take longer; the dictionary is set apart
_SMALLEST_DICTIONARY = 1 << 20
LARGEST_TEXT = 64 << 20  # xz needs about eleven times the dictionary in memory


def _compressed_size(text: bytes, dictionary: int) -> int:
    return len(lzma.compress(text, filters=[{"id": lzma.FILTER_LZMA2, "preset": _PRESET, "dict_size": dictionary}]))


def _dictionary(n: int) -> int:
    """A power of two that holds `n` bytes: nothing read has been forgotten when the last byte comes."""
    return max(_SMALLEST_DICTIONARY, 1 << (max(n, 1) - 1).bit_length())


def plain_bits_per_byte(held_out: bytes) -> float:
    """Bits per byte of xz on the text alone, container included (about 60 bytes)."""
    return _compressed_size(held_out, _dictionary(len(held_out))) * 8 / len(held_out)


def conditional_bits_per_byte(train: bytes, held_out: bytes) -> float:
    """Bits per byte that `held_out` adds when xz has `train` in its dictionary.

    Raises:
        ValueError: the two together are larger than `LARGEST_TEXT`; the caller samples first.
    """
    both = len(train) + len(held_out)
    if both > LARGEST_TEXT:
        raise ValueError(f"{both} bytes are more than {LARGEST_TEXT}")
    dictionary = _dictionary(both)
    with ThreadPoolExecutor(2) as pool:  # lzma lets go of the interpreter lock: wall time halves, the work is the same
        without, combined = pool.map(lambda text: _compressed_size(text, dictionary), (train, train + held_out))
    return (combined - without) * 8 / len(held_out)
