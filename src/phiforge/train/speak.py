"""Early words: what a model says while it learns."""

from __future__ import annotations

from torch import nn

from phiforge.core.seeds import derive
from phiforge.data.tokenizer import Tokenizer
from phiforge.generate.config import SamplingConfig
from phiforge.generate.engine import Engine


class Speaker:
    """Continues each prompt; called with the step, so that each time has its own stream of randomness and a resumed run says the same.

    The engine draws from generators of its own: the global random state, and with it the run, does not depend on how often a model speaks.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, prompts: list[str], tokens: int, seed: int) -> None:
        self.model, self.tokenizer, self.prompts, self.seed = model, tokenizer, prompts, seed
        self.sampling = SamplingConfig(max_new_tokens=tokens, temperature=0.8, top_k=40, top_p=1.0, repetition_penalty=1.0)
        self._engine: Engine | None = None

    def __call__(self, step: int) -> list[tuple[str, str]]:
        """(prompt, continuation) for each prompt. The model's mode is left as it was."""
        if not self.prompts:
            return []
        if self._engine is None:
            self._engine = Engine(self.model)
        else:
            self._engine.refresh()
        room = (self._engine.context_length or 1 << 30) - 1  # a prompt of the whole context leaves a token to say
        ids = [[self.tokenizer.bos_id, *self.tokenizer.encode(prompt).tolist()][-room:] for prompt in self.prompts]
        seeds = [derive(self.seed, "samples", step, index) for index in range(len(ids))]
        said = self._engine.generate(ids, self.sampling, stop_ids=[self.tokenizer.eos_id], seeds=seeds)
        return [(prompt, self.tokenizer.decode(completion.ids)) for prompt, completion in zip(self.prompts, said, strict=True)]
