"""The size dial: from a target such as `10M` or `codette-small` to width, depth and heads. No torch here."""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from phiforge.core.config import Config, nearest
from phiforge.core.errors import ConfigError
from phiforge.golden.shapes import golden_heads, golden_mlp, golden_multiple, golden_shape, phi_taper

Family = Literal["starcoder2", "llama", "gpt2"]
SMALLEST, LARGEST = 50_000, 20_000_000_000


class Preset(NamedTuple):
    """A size with a name, at the vocabulary and context that it is counted with."""

    width: int
    depth: int
    heads: int
    family: Family | None = None  # None: any
    vocabulary: int = 32_768
    context: int = 2048


# The codette ones are named by their true count (the seed document's sizes are nominal).
PRESETS: dict[str, Preset] = {
    "codette-small": Preset(2048, 24, 32),  # 1.3B
    "codette-medium": Preset(2560, 33, 32),  # 2.7B
    "codette-large": Preset(3072, 46, 48),  # 5.3B
    "gpt2-small": Preset(768, 12, 12, family="gpt2", vocabulary=50_257, context=1024),  # 124M, Radford et al. 2019
}
PRESET_VOCABULARY = 32_768


class DecoderSpec(Config):
    """A decoder as a person asks for it: a size, or explicit shapes, or both mixed."""

    family: Family = Field(
        default="starcoder2",
        description="layout: starcoder2 (LayerNorm, GELU, biases), llama (RMSNorm, SwiGLU) or gpt2 (as starcoder2, learned positions)",
    )
    size: str = Field(default="1M", description="true parameter count to aim at (300K ... 13B), or " + "|".join(PRESETS))
    shape: Literal["stock", "golden"] = Field(
        default="stock", description="proportions of what is derived from size: of published decoders, or of the golden ratio"
    )
    mlp_taper: bool = Field(default=False, description="MLP widths fall by phi from layer to layer, down to the model's width")
    vocab_size: int | None = Field(default=None, ge=2, le=1_000_000, description="tokens; taken from the tokenizer when not given")
    context_length: int = Field(default=256, ge=8, le=1_048_576, description="longest sequence, in tokens")
    width: int | None = Field(default=None, ge=8, le=65_536, description="hidden size; derived from size when not given")
    depth: int | None = Field(default=None, ge=1, le=512, description="layers; derived from size when not given")
    heads: int | None = Field(default=None, ge=1, le=512, description="attention heads; derived from width when not given")
    kv_heads: int | None = Field(default=None, ge=1, le=512, description="key/value heads; equal to heads when not given")
    mlp_width: int | None = Field(default=None, ge=8, le=262_144, description="MLP width; 4x, or 8/3x (llama), when not given")
    tie_head: bool = Field(default=True, description="share the embedding with the output head")
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="embedding, residual and attention dropout (llama: attention only)")
    rope_theta: float = Field(default=10_000.0, gt=0, description="base of the rotary frequencies")
    initializer_range: float = Field(default=0.02, gt=0, le=1, description="standard deviation of new weights")
    zero_init_residual: bool = Field(default=False, description="start the projections that write to the residual stream at zero")

    @field_validator("size", mode="before")
    @classmethod
    def _size_is_readable(cls, value: object) -> object:
        text = f"{value:d}" if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str):
            parse_size(text)
        return text

    @model_validator(mode="after")
    def _one_answer(self) -> DecoderSpec:
        """A size beside width and depth would be ignored in silence."""
        if self.width and self.depth and self.size != DecoderSpec.model_fields["size"].default:
            raise ValueError(
                f"size {self.size} beside width {self.width} and depth {self.depth}: leave size out, or set width or depth to null"
            )
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> DecoderSpec:
        if self.width and self.width % 2:
            raise ValueError(f"width {self.width} must be even; take a multiple of 32")
        if self.width and self.heads and (self.width % self.heads or (self.width // self.heads) % 2):
            raise ValueError(f"width {self.width} must split into {self.heads} heads of an even size")
        if self.heads and self.kv_heads and self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.mlp_taper and self.family == "gpt2":
            raise ValueError("mlp_taper is for starcoder2 and llama; family gpt2 has one MLP width")
        needs = PRESETS[self.size].family if self.size in PRESETS else None
        if needs and self.family != needs and "family" in self.model_fields_set:
            raise ValueError(f"size {self.size} is of the family {needs}, not {self.family}; leave family out")
        return self


class DecoderShape(Config):
    """Every number of a decoder, settled."""

    family: Family
    vocab_size: int
    context_length: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    tie_head: bool
    dropout: float
    rope_theta: float
    initializer_range: float
    zero_init_residual: bool
    mlp_widths: tuple[int, ...] | None = None  # of each layer, where they taper; mlp_width is the first

    @property
    def mlp_total(self) -> int:
        """MLP widths of all layers together."""
        return sum(self.mlp_widths) if self.mlp_widths else self.depth * self.mlp_width

    @property
    def stock(self) -> bool:
        """Whether upstream's class holds it, so that what knows the family runs it."""
        return self.mlp_widths is None

    def about(self) -> str:
        """One line for a log."""
        return (
            f"{self.family}: {human_count(self.parameters())} parameters: width {self.width}, {self.depth} layers, {self.heads} heads,"
            f" MLP {self.mlp_width}, vocabulary {self.vocab_size}, context {self.context_length}"
        )

    def parameters(self) -> int:
        """True parameter count, from the shapes (a tied head counts once)."""
        w, kv = self.width, self.kv_heads * self.head_width
        bias = self.family != "llama"
        attention = 2 * w * w + 2 * w * kv + (2 * w + 2 * kv if bias else 0)
        norm = 2 * w if bias else w
        mlp = self.mlp_total * (2 * w + 1) + self.depth * w if bias else self.mlp_total * 3 * w
        embedding = self.vocab_size * w * (1 if self.tie_head else 2)
        positions = self.context_length * w if self.family == "gpt2" else 0
        return embedding + positions + self.depth * (attention + 2 * norm) + mlp + norm

    def matrix_parameters(self) -> int:
        """Weights that take part in a matrix product for each token: layers and head, not the embedding look-up."""
        w, kv = self.width, self.kv_heads * self.head_width
        mlp = (3 if self.family == "llama" else 2) * w * self.mlp_total
        return self.depth * (2 * w * w + 2 * w * kv) + mlp + self.vocab_size * w

    def forward_flops(self, length: int | None = None) -> int:
        """Floating-point operations to read one token, averaged over a sequence of `length` (causal attention)."""
        length = length or self.context_length
        return 2 * self.matrix_parameters() + 2 * self.depth * self.width * length

    def training_flops(self, length: int | None = None) -> int:
        """Operations for one token of training: forward, and twice that backward."""
        return 3 * self.forward_flops(length)

    def cache_bytes(self, tokens: int, element: int = 2) -> int:
        """Bytes of key/value cache for `tokens` tokens at `element` bytes a number."""
        return 2 * self.depth * self.kv_heads * self.head_width * tokens * element


def parse_size(text: str) -> int:
    """`"10M"` -> 10,000,000; a preset's name -> its true count. Raises ConfigError."""
    if text in PRESETS:
        return _preset_shape(DecoderSpec.model_construct(), text).parameters()
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMbB]?)\s*", text)
    if not match:
        raise ConfigError(f"size {text!r} is not a count such as 300K, 1M or 1.3B; {nearest(text, PRESETS)}")
    count = float(match[1]) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[match[2].lower()]
    if not SMALLEST <= count <= LARGEST:
        raise ConfigError(f"size {text!r} is outside {human_count(SMALLEST)} to {human_count(LARGEST)} parameters")
    return round(count)


def human_count(n: float) -> str:
    """1,275,000,000 -> `1.27B`."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if n >= scale:
            return f"{n / scale:.3g}{unit}"
    return f"{n:.0f}"


def resolve(spec: DecoderSpec) -> DecoderShape:
    """Settle every number. Raises ConfigError when no shape of the family holds the size asked for."""
    if spec.size in PRESETS and not (spec.width or spec.depth):
        return _preset_shape(spec, spec.size)
    if spec.vocab_size is None:
        raise ConfigError("the vocabulary size is not known yet", fix="give vocab_size, or a tokenizer")
    if spec.width and spec.depth:
        return _shape(spec, spec.width, spec.depth)
    target = parse_size(spec.size)
    return _golden(spec, target) if spec.shape == "golden" else _search(spec, target)


def _preset_shape(spec: DecoderSpec, name: str) -> DecoderShape:
    preset = PRESETS[name]
    asked = spec.model_copy(
        update={
            "family": preset.family or spec.family,
            "heads": spec.heads or preset.heads,
            "vocab_size": spec.vocab_size or preset.vocabulary,
        }
    )
    if "context_length" not in spec.model_fields_set:
        asked = asked.model_copy(update={"context_length": preset.context})
    if spec.shape == "golden":  # the same count in golden proportions
        return _golden(asked.model_copy(update={"heads": spec.heads}), _shape(asked, preset.width, preset.depth).parameters())
    return _shape(asked, preset.width, preset.depth)


def _search(spec: DecoderSpec, target: int) -> DecoderShape:
    """The shape whose count is nearest the target, among those of a usual aspect.

    Width over depth grows slowly with size: about 32 at 1M, 64 at 100M, 130 at 13B, which is where published
    decoders lie (GPT-2 124M: 64; Llama 13B: 128).
    """
    aspect = usual_aspect(target)
    step = 16 if target < 2e6 else 32 if target < 5e7 else 64 if target < 1e9 else 128
    widths = [spec.width] if spec.width else range(step, 16_384, step)
    best, best_cost = None, math.inf
    for width in widths:
        if spec.heads and (width % spec.heads or (width // spec.heads) % 2):
            continue
        around = width / aspect
        depths = [spec.depth] if spec.depth else range(max(1, math.floor(around / 1.6)), math.ceil(around * 1.6) + 1)
        for depth in depths:
            shape = _shape(spec, width, depth)
            cost = 8 * abs(math.log(shape.parameters() / target)) + abs(math.log(width / depth / aspect))
            cost += 0.1 * (shape.head_width not in (32, 64, 128))
            if cost < best_cost:
                best, best_cost = shape, cost
        if shape.parameters() > 8 * target and best is not None:  # every wider one is larger still
            break
    return _near(spec, target, best)


def usual_aspect(target: float) -> float:
    """Width over depth of published decoders with so many parameters."""
    return 32 * (target / 1e6) ** 0.15


def _near(spec: DecoderSpec, target: int, best: DecoderShape | None) -> DecoderShape:
    """`best`, where its count is within a quarter of the target."""
    if best is None or abs(math.log(best.parameters() / target)) > math.log(1.25):
        near = f"; the nearest has {human_count(best.parameters())}" if best else ""
        raise ConfigError(
            f"size {spec.size}: no {spec.family} shape holds {human_count(target)} parameters with a vocabulary of {spec.vocab_size}{near}",
            fix="a smaller vocab_size, another size, or explicit width and depth",
        )
    return best


def _golden(spec: DecoderSpec, target: int) -> DecoderShape:
    """The golden shape whose count is nearest the target; what the spec gives stays."""

    def shaped(width: int, depth: int, heads: int, mlp_width: int) -> DecoderShape:
        return _shape(spec.model_copy(update={"heads": heads, "mlp_width": mlp_width}), width, depth, target)

    found = golden_shape(
        target,
        lambda width, depth, heads, mlp_width: shaped(width, depth, heads, mlp_width).parameters(),
        usual_aspect=usual_aspect(target),
        usual_head=_usual_head,
        gated=spec.family == "llama",
        width=spec.width,
        depth=spec.depth,
        heads=spec.heads,
        mlp_width=spec.mlp_width,
    )
    return _near(spec, target, shaped(found.width, found.depth, found.heads, found.mlp_width))


def _shape(spec: DecoderSpec, width: int, depth: int, target: int | None = None) -> DecoderShape:
    """Everything else from width and depth. target: parameters aimed at, which decide how a taper is rounded."""
    heads = spec.heads or (golden_heads(width, width / _usual_head(width)) if spec.shape == "golden" else _heads(width))
    if width % heads or (width // heads) % 2:
        raise ConfigError(f"width {width} does not split into {heads} heads of an even size", fix="another width or heads")
    kv_heads = spec.kv_heads or heads
    if heads % kv_heads:
        raise ConfigError(f"heads {heads} is not a multiple of kv_heads {kv_heads}", fix="another heads or kv_heads")
    if spec.family == "gpt2" and kv_heads != heads:
        raise ConfigError(f"family gpt2 has as many key/value heads as heads, not {kv_heads} of {heads}", fix="leave kv_heads out")
    mlp = spec.mlp_width or _mlp_width(spec, width, depth)
    multiple = golden_multiple(target or 12 * width * width * depth)
    return DecoderShape(
        family=spec.family,
        vocab_size=spec.vocab_size or PRESET_VOCABULARY,
        context_length=spec.context_length,
        width=width,
        depth=depth,
        heads=heads,
        kv_heads=kv_heads,
        head_width=width // heads,
        mlp_width=mlp,
        tie_head=spec.tie_head,
        dropout=spec.dropout,
        rope_theta=spec.rope_theta,
        initializer_range=spec.initializer_range,
        zero_init_residual=spec.zero_init_residual,
        mlp_widths=tuple(phi_taper(mlp, depth, least=min(mlp, width), multiple=multiple)) if spec.mlp_taper else None,
    )


def _mlp_width(spec: DecoderSpec, width: int, depth: int) -> int:
    if spec.shape == "golden":
        return golden_mlp(width, gated=spec.family == "llama", multiple=golden_multiple(12 * width * width * depth))
    return _swiglu_width(width) if spec.family == "llama" else 4 * width


def _usual_head(width: int) -> int:
    """Width of a head in published decoders of that width."""
    return 32 if width < 512 else 64 if width < 4096 else 128


def _heads(width: int) -> int:
    """As many heads of the usual width (32 below 512, 64 below 4096, else 128) as fit evenly; else the nearest even split."""
    usual = _usual_head(width)
    for head in sorted(range(2, min(width, 256) + 1, 2), key=lambda head: abs(head - usual)):
        if width % head == 0:
            return width // head
    raise ConfigError(f"width {width} must be even", fix="a multiple of 32")


def _swiglu_width(width: int) -> int:
    """8/3 of the width (equal cost to a 4x MLP of two matrices), rounded up to 32, or 256 from width 1,024."""
    multiple = 256 if width >= 1024 else 32
    return math.ceil(8 * width / 3 / multiple) * multiple
