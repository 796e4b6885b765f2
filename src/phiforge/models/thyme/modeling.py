"""Thyme as a transformers model: everything but one matrix state looks at one token alone.

`outer` (per state layer, h = normalised residual stream, a = the twelve axiom units):

    a = tanh(LN(W_a h));   k, v, q_1..R, m, b = W [h; a; r];   k, q of length 1;   beta = sigmoid(b)
    S <- S diag(exp(-exp(m) / tau));   S <- S + beta (v - S k) k^T  (delta)  or  S + v k^T
    x <- x + W_o RMSNorm([S q_1; ..; S q_R; vec S; r]);   r <- RMSNorm(W_r h)

where r, the register, is a row of the state: a mark of the token before. Without it a key and the value that follows it are never seen
together, and no pair can be bound (the token shift of RWKV, Peng et al. 2023, arXiv 2305.13048, inside the bytes that are counted). tau is
golden-spaced: 1, phi, phi^2, ... (models/thyme/spec.py).

`literal` is the first design, as written:

    a = tanh(LN(W1 e));  c = tanh(LN(W2 a));  S <- sigmoid(d) S + sigmoid(m) c c^T;  logits = W4 GELU(W3 vec S)

Importing this file registers both with transformers' Auto classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from phiforge.core.seeds import derive
from phiforge.models.thyme.configuration import ThymeCache, ThymeConfig
from phiforge.models.thyme.memory import LITERAL_D, LITERAL_M, LiteralMemory, ThymeBlock, ThymeMemory
from phiforge.models.thyme.spec import STATE, ThymeShape, ThymeSpec, resolve_thyme, time_scales


class ThymePreTrainedModel(PreTrainedModel):
    """What transformers asks of both classes below."""

    config_class = ThymeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = False
    _is_stateful = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, ThymeMemory) and self.config.decay != "none":
            scales = torch.tensor(time_scales(self.config.timescales)).log()
            init.copy_(module.log_time_bias, scales if self.config.decay == "golden" else scales.mean(0, keepdim=True))
        elif isinstance(module, LiteralMemory):
            init.constant_(module.d_bias, LITERAL_D)
            init.constant_(module.m_bias, LITERAL_M)


class ThymeModel(ThymePreTrainedModel):
    """Tokens -> hidden states."""

    def __init__(self, config: ThymeConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.positions == "literal":
            self.embed_positions = nn.Embedding(config.training_length, config.hidden_size)
        if config.form == "literal":
            self.memories = nn.ModuleList([LiteralMemory(config)])
        else:
            blocks = (ThymeBlock(config) for _ in range(config.state_layers * config.depth_before))
            self.before = nn.ModuleList(blocks)
            self.memories = nn.ModuleList(ThymeMemory(config) for _ in range(config.state_layers))
            self.after = nn.ModuleList(ThymeBlock(config) for _ in range(config.num_hidden_layers))
            self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding table."""
        return self.embed_tokens

    def new_cache(self, rows: int) -> ThymeCache:
        """An empty memory for so many sequences."""
        shape = (rows, self.config.state_layers, self.config.rows_of_state, STATE)
        return ThymeCache(torch.zeros(shape, dtype=torch.float32, device=self.embed_tokens.weight.device))

    def embed(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D), before dropout."""
        x = self.embed_tokens(input_ids)
        if self.config.positions == "literal":  # saturates: every position past the table's end is its last row
            x = x + self.embed_positions(position_ids.clamp(max=self.config.training_length - 1))
        return x

    def axiom_activations(self, input_ids: Tensor) -> Tensor:
        """The twelve units of the first state layer for each token by itself: (B, T) -> (B, T, 12) in (-1, 1)."""
        x = self.embed(input_ids, torch.zeros_like(input_ids))
        memory: Any = self.memories[0]
        if self.config.form == "literal":
            return memory.axioms(x)
        for block in self.before[: self.config.depth_before]:
            x = block(x)
        return memory.axioms(memory.norm(x))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: ThymeCache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids (B, T). A position id 0 begins a text: the state is emptied before it. attention_mask: 0 marks padding on the left."""
        assert input_ids is not None
        seen = past_key_values.seen if past_key_values is not None else 0
        if position_ids is None:
            position_ids = _positions(attention_mask, seen, input_ids)
        reset = _beginnings(position_ids, attention_mask)
        x = F.dropout(self.embed(input_ids, position_ids), self.config.dropout, self.training)
        finals = []
        for index, memory in enumerate(self.memories):
            for block in self._before(index):
                x = block(x)
            state = None if past_key_values is None else past_key_values.state[:, index]
            x, final = memory(x, state, reset)
            finals.append(final)
        if self.config.form != "literal":
            for block in self.after:
                x = block(x)
            x = self.norm(x)
        cache = None
        if use_cache or past_key_values is not None:
            cache = ThymeCache(torch.stack(finals, 1), seen + input_ids.shape[1])
        return BaseModelOutputWithPast(last_hidden_state=x, past_key_values=cache)  # type: ignore[arg-type]

    def _before(self, index: int) -> list[nn.Module]:
        each = self.config.depth_before
        return [] if self.config.form == "literal" else list(self.before[index * each : (index + 1) * each])


def _beginnings(position_ids: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T) where a text begins. A masked token inside one (generate() masks every pad id, and gives it position 0) begins nothing."""
    begins = position_ids == 0
    if mask is not None and mask.shape[1] >= begins.shape[1]:
        length = begins.shape[1]
        begins = begins & ((mask[:, -length:] != 0) | (mask.cumsum(-1)[:, -length:] == 0))
    return begins


def _positions(mask: Tensor | None, seen: int, input_ids: Tensor) -> Tensor:
    """(B, T) places in the text; 0 for padding on the left and for the first token after it."""
    rows, length = input_ids.shape
    if mask is None:
        return torch.arange(seen, seen + length, device=input_ids.device).expand(rows, -1)
    if (before := seen + length - mask.shape[1]) > 0:  # a mask of the new tokens alone: all before them counts
        mask = F.pad(mask.long(), (before, 0), value=1)
    return (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]


class ThymeForCausalLM(ThymePreTrainedModel, GenerationMixin):
    """Tokens -> logits."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ThymeConfig) -> None:
        super().__init__(config)
        self.model = ThymeModel(config)
        literal = config.form == "literal"
        self.lm_head = nn.Linear(config.intermediate_size if literal else config.hidden_size, config.vocab_size, bias=literal)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: the first forward pass makes its own cache."""
        return False

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def axiom_activations(self, input_ids: Tensor) -> Tensor:
        """See ThymeModel."""
        return self.model.axiom_activations(input_ids)

    def hidden(self, input_ids: Tensor, position_ids: Tensor | None = None, cache: ThymeCache | None = None) -> Tensor:
        """(B, T) -> (B, T, D): what the head is given."""
        hidden: Tensor = self.model(input_ids, position_ids=position_ids, past_key_values=cache).last_hidden_state
        return hidden

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: ThymeCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As every causal model of transformers."""
        out = self.model(input_ids, attention_mask, position_ids, past_key_values, use_cache)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(out.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=out.past_key_values)


def to_thyme_config(shape: ThymeShape, special_ids: dict[str, int] | None = None) -> ThymeConfig:
    """The config of a shape. `special_ids`: pad_token_id, bos_token_id, eos_token_id."""
    spec = shape.spec
    names = "form depth_before state_layers reads read_state delta normalise_keys decay timescales data_dependent positions dropout"
    ids: dict[str, Any] = dict(special_ids or {})
    return ThymeConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=spec.depth,
        training_length=spec.context_length,
        token_shift=spec.token_shift and spec.form == "outer",
        initializer_range=spec.initializer_range,
        axiom_weight=spec.axioms.weight,
        tie_word_embeddings=spec.tie_head and spec.form == "outer",
        **{name: getattr(spec, name) for name in names.split()},
        **ids,
    )


def build_thyme(shape: ThymeShape, *, seed: int, special_ids: dict[str, int] | None = None) -> ThymeForCausalLM:
    """A new model in float32 on the CPU; its weights depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "initialisation"))
        return ThymeForCausalLM(to_thyme_config(shape, special_ids))


def ThymeLM(vocab_size: int, *, seed: int = 0, **settings: Any) -> ThymeForCausalLM:
    """A new model: `ThymeLM(10_000)`, `ThymeLM(32_000, width=512, state_layers=2)`; settings are ThymeSpec's."""
    return build_thyme(resolve_thyme(ThymeSpec(vocab_size=vocab_size, **settings)), seed=seed)


AutoConfig.register(ThymeConfig.model_type, ThymeConfig, exist_ok=True)
AutoModel.register(ThymeConfig, ThymeModel, exist_ok=True)
AutoModelForCausalLM.register(ThymeConfig, ThymeForCausalLM, exist_ok=True)
