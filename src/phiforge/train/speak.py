"""Early words: what a model says while it learns."""

from __future__ import annotations

from typing import Any

import torch

from phiforge.core.seeds import derive
from phiforge.data.tokenizer import Tokenizer


class Speaker:
    """Continues each prompt; called with the step, so that each time has its own stream of randomness and a resumed run says the same."""

    def __init__(self, model: Any, tokenizer: Tokenizer, prompts: list[str], tokens: int, seed: int) -> None:
        self.model, self.tokenizer, self.prompts, self.tokens, self.seed = model, tokenizer, prompts, tokens, seed

    def __call__(self, step: int) -> list[tuple[str, str]]:
        """(prompt, continuation) for each prompt. Global random state and the model's mode are left as they were."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(self.seed, "samples", step))
                return [(prompt, self._continue(prompt)) for prompt in self.prompts]
        finally:
            self.model.train(training)

    def _continue(self, prompt: str) -> str:
        ids = [self.tokenizer.bos_id, *self.tokenizer.encode(prompt).tolist()]
        room = self.model.config.max_position_embeddings - self.tokens
        tokens = torch.tensor([ids[-max(1, room) :]], device=self.model.device)
        said = self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=self.tokens,
            do_sample=True,
            temperature=0.8,
            top_k=40,
            pad_token_id=self.tokenizer.pad_id,
            eos_token_id=self.tokenizer.eos_id,
            use_cache=True,
        )
        return self.tokenizer.decode(said[0, tokens.shape[1] :].tolist())
