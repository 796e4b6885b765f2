"""Thyme's config in transformers' form, and its cache: one tensor."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import PretrainedConfig

from phiforge.models.thyme.spec import STATE


class ThymeConfig(PretrainedConfig):
    """A settled shape in transformers' form."""

    model_type = "phiforge_thyme"

    vocab_size: int = 10_000
    hidden_size: int = 256
    intermediate_size: int = 1024
    form: str = "outer"
    num_hidden_layers: int = 2  # residual MLPs after the last state
    depth_before: int = 1
    state_layers: int = 1
    reads: int = 4
    read_state: bool = True
    token_shift: bool = False  # a row of the state holds a mark of the token before
    delta: bool = True
    normalise_keys: bool = True
    decay: str = "golden"
    timescales: int = 12
    data_dependent: bool = True
    positions: str = "none"
    training_length: int = 128
    dropout: float = 0.1
    initializer_range: float = 0.02
    axiom_weight: float = 0.0
    tie_word_embeddings: bool = True
    use_cache: bool = True
    rms_norm_eps: float = 1e-5
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    @property
    def rows_of_state(self) -> int:
        """Rows of each layer's state; it has 24 columns."""
        return STATE // self.state_layers

    @property
    def value_rows(self) -> int:
        """Rows of a layer's state that are its matrix: all but a register."""
        return self.rows_of_state - int(self.token_shift)

    @property
    def read_width(self) -> int:
        """Numbers that a state layer reads for a token: by queries, the matrix as it is, the register."""
        return self.reads * self.value_rows + (self.value_rows * STATE if self.read_state else 0) + (STATE if self.token_shift else 0)


@dataclass
class ThymeCache:
    """All that is remembered of the text so far: `state` (B, state layers, rows, 24) float32, 2,304 bytes a row over all layers.

    A forward pass gives back a new one and leaves the one it was given as it was, so that a state can be gone on from twice. `seen`
    counts tokens, padding on the left included. The rest is what `generate()` asks of a cache.
    """

    state: Tensor
    seen: int = 0
    is_compileable = False
    is_croppable = False  # a token can't be taken back

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens read so far."""
        return self.seen

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row beam_idx[i] was (beam search)."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows, in this order."""
        self.state = self.state.index_select(0, indices.to(self.state.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times."""
        self.state = self.state.repeat_interleave(repeats, 0)

    @property
    def bytes_per_row(self) -> int:
        """Counted from the tensor."""
        return self.state.element_size() * self.state[0].numel()
