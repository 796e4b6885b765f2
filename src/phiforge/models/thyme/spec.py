"""What a Thyme model can be: its settings, its counted numbers. No torch here."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from phiforge.core.config import Config
from phiforge.core.errors import ConfigError
from phiforge.golden.ratio import PHI
from phiforge.models.sizes import human_count, parse_size

STATE = 24  # the state is STATE x STATE float32 numbers, over all layers together
AXIOMS = 12
STATE_BYTES = STATE * STATE * 4  # 2,304


class AxiomSpec(Config):
    """Whether the twelve axiom units are taught what they stand for."""

    weight: float = Field(default=0.0, ge=0, le=100, description="weight of the loss that ties unit k to axiom k of the lexicon; 0 = off")


class ThymeSpec(Config):
    """A constant-state model as a person asks for it."""

    family: Literal["thyme"] = Field(default="thyme", description="thyme: one matrix state of 2,304 bytes, whatever the context")
    form: Literal["outer", "literal"] = Field(default="outer", description="outer: decayed outer products; literal: as first written down")
    size: str | None = Field(default=None, description="true parameter count to aim at (1M, 4M, ...): chooses width; none = width says")
    vocab_size: int | None = Field(default=None, ge=2, le=1_000_000, description="tokens; taken from the tokenizer when not given")
    context_length: int = Field(default=128, ge=2, le=1_048_576, description="tokens in a training row; what can be read has no bound")
    width: int = Field(default=256, ge=16, le=16_384, description="width of the embedding and the residual stream")
    depth: int = Field(default=2, ge=0, le=64, description="residual MLPs after the last state (outer)")
    depth_before: int = Field(default=1, ge=0, le=64, description="residual MLPs before each state (outer)")
    mlp_width: int | None = Field(default=None, ge=8, le=65_536, description="width inside the MLPs; none = 4x (literal: 512)")
    state_layers: Literal[1, 2] = Field(default=1, description="2: the state is shared between two layers, 12 x 24 each")
    reads: int = Field(default=4, ge=0, le=64, description="queries that read each state (outer)")
    read_state: bool = Field(default=True, description="read the whole state too, as a vector (outer)")
    token_shift: bool = Field(default=True, description="a row of each state marks the token before, so that pairs can be bound (outer)")
    delta: bool = Field(default=True, description="delta rule: a write first takes out what its key held (outer)")
    normalise_keys: bool = Field(default=True, description="keys and queries have length 1 (outer)")
    decay: Literal["golden", "single", "none"] = Field(
        default="golden", description="what is forgotten: golden = time scales 1, phi, phi^2, ...; single = one for all; none (outer)"
    )
    timescales: int = Field(default=12, ge=1, le=STATE, description="how many golden-spaced time scales the state's 24 columns share")
    data_dependent: bool = Field(default=True, description="each token bends the time scales it meets (outer)")
    positions: Literal["none", "literal"] = Field(
        default="none", description="literal: a table of context_length rows, the last for all beyond"
    )
    tie_head: bool = Field(default=True, description="share the embedding with the output head (outer)")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of embeddings and of what each block adds")
    initializer_range: float = Field(default=0.02, gt=0, le=1, description="standard deviation of new weights")
    axioms: AxiomSpec = Field(default=AxiomSpec(), description="the twelve axiom units")

    @field_validator("size", mode="before")
    @classmethod
    def _size_is_readable(cls, value: object) -> object:
        text = f"{value:d}" if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(text, str):
            parse_size(text)
        return text

    @model_validator(mode="after")
    def _agree(self) -> ThymeSpec:
        if self.size and "width" in self.model_fields_set:
            raise ValueError(f"size {self.size} beside width {self.width}: keep one of them")
        if self.form == "literal" and self.state_layers != 1:
            raise ValueError("form literal has one state; state_layers=2 is for form outer")
        if self.form == "outer" and not self.reads and not self.read_state:
            raise ValueError("reads=0 and read_state=false: nothing would read the state; set one of them")
        return self


class ThymeShape(Config):
    """Every number of a Thyme model, settled."""

    spec: ThymeSpec
    vocab_size: int
    width: int
    mlp_width: int

    family: Literal["thyme"] = "thyme"

    @property
    def context_length(self) -> int:
        """Tokens in a training row."""
        return self.spec.context_length

    @property
    def depth(self) -> int:
        """Blocks of any kind."""
        return 1 if self.spec.form == "literal" else self.spec.state_layers * (1 + self.spec.depth_before) + self.spec.depth

    @property
    def dropout(self) -> float:
        """Base dropout."""
        return self.spec.dropout

    @property
    def rows_of_state(self) -> int:
        """Rows of each layer's state; it has 24 columns."""
        return STATE // self.spec.state_layers

    @property
    def value_rows(self) -> int:
        """Rows of each layer's state that are its matrix: all but a register."""
        return self.rows_of_state - int(self.spec.token_shift and self.spec.form == "outer")

    def state_bytes(self) -> int:
        """Bytes that a sequence is remembered by, over all layers."""
        return 4 * self.spec.state_layers * self.rows_of_state * STATE

    def cache_bytes(self, tokens: int, element: int = 2) -> int:
        """The same for every number of tokens: what it is for."""
        return self.state_bytes()

    def about(self) -> str:
        """One line for a log."""
        return (
            f"thyme ({self.spec.form}): {human_count(self.parameters())} parameters: width {self.width}, MLP {self.mlp_width},"
            f" vocabulary {self.vocab_size}; remembers {self.state_bytes():,} bytes of a text, however long"
        )

    def parameters(self) -> int:
        """True parameter count, from the shapes (a tied head counts once)."""
        return self._look_up() + self._products(biases=True) + self._others()

    def matrix_parameters(self) -> int:
        """Weights that take part in a matrix product for each token, the head included."""
        head = self.vocab_size * self.width if self.spec.form == "outer" and self.spec.tie_head else 0
        return self._products(biases=False) + head

    def forward_flops(self, length: int | None = None) -> int:
        """Floating-point operations to read one token, whatever its position: products, and the scan of the state."""
        state = self.spec.state_layers * self.rows_of_state * STATE
        scan = state * (3 + (4 if self.spec.delta and self.spec.form == "outer" else 0) + 2 * self.spec.reads)
        return 2 * self.matrix_parameters() + scan

    def training_flops(self, length: int | None = None) -> int:
        """Operations for one token of training: forward, and twice that backward."""
        return 3 * self.forward_flops(length)

    def _look_up(self) -> int:
        positions = self.spec.context_length * self.width if self.spec.positions == "literal" else 0
        return self.vocab_size * self.width + positions

    def _products(self, *, biases: bool) -> int:
        """Numbers of all linear layers."""
        return sum(rows * columns + (rows if biases and biased else 0) for rows, columns, biased in self.linears())

    def linears(self) -> list[tuple[int, int, bool]]:
        """(outputs, inputs, has a bias) of every linear layer but a tied head."""
        spec, width = self.spec, self.width
        if spec.form == "literal":
            state = STATE * STATE
            return [(AXIOMS, width, True), (STATE, AXIOMS, True), (self.mlp_width, state, True), (self.vocab_size, self.mlp_width, True)]
        rows, mlp = self.value_rows, [(self.mlp_width, width, False), (width, self.mlp_width, False)]
        read = spec.reads * rows + (rows * STATE if spec.read_state else 0) + (STATE if spec.token_shift else 0)
        moved = STATE if spec.decay != "none" and spec.data_dependent else 0
        writes = STATE + rows + spec.reads * STATE + moved + (1 if spec.delta else 0)
        marks = [(STATE, width, False)] if spec.token_shift else []
        layer = [(AXIOMS, width, True), (writes, width + AXIOMS + STATE * len(marks), True), *marks, (width, read, False)]
        head = [] if spec.tie_head else [(self.vocab_size, width, False)]
        return spec.state_layers * (spec.depth_before * mlp + layer) + spec.depth * mlp + head

    def _others(self) -> int:
        """Gains, time scales."""
        spec, width = self.spec, self.width
        if spec.form == "literal":
            return 2 * AXIOMS + 2 * STATE + 2  # two layer norms, d and m
        rows = self.value_rows
        read = spec.reads * rows + (rows * STATE if spec.read_state else 0) + (STATE if spec.token_shift else 0)
        scales = {"golden": STATE, "single": 1, "none": 0}[spec.decay]
        layer = width + read + 2 * AXIOMS + scales  # norm, norm of what is read, layer norm of the axioms, log time scales
        return spec.state_layers * (spec.depth_before * width + layer) + spec.depth * width + width


def time_scales(count: int) -> list[float]:
    """Tokens after which each of the 24 columns has kept 1/e: 1, phi, phi^2, ..., `count` of them shared evenly by the columns."""
    return [PHI ** (column * count // STATE) for column in range(STATE)]


def resolve_thyme(spec: ThymeSpec) -> ThymeShape:
    """Settle every number. Raises ConfigError when no width gives the size asked for."""
    if spec.vocab_size is None:
        raise ConfigError("the vocabulary size is not known yet", fix="give vocab_size, or a tokenizer")
    if spec.size is None:
        return _shape(spec, spec.width)
    target = parse_size(spec.size)
    best = min((_shape(spec, width) for width in range(16, 8192, 8)), key=lambda shape: abs(math.log(shape.parameters() / target)))
    if abs(math.log(best.parameters() / target)) > math.log(1.25):
        raise ConfigError(
            f"size {spec.size}: no width gives {human_count(target)} parameters with a vocabulary of {spec.vocab_size};"
            f" the nearest has {human_count(best.parameters())}",
            fix="a smaller vocab_size, or another size",
        )
    return best


def _shape(spec: ThymeSpec, width: int) -> ThymeShape:
    mlp = spec.mlp_width or (512 if spec.form == "literal" else 4 * width)
    return ThymeShape(spec=spec, vocab_size=spec.vocab_size or 0, width=width, mlp_width=mlp)
