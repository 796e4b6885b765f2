"""The trained model as transformers runs it in float32: what an export is held against. Needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from phiforge.core.errors import DataError


class Reference:
    """A model folder in float32 on the processor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{folder}: transformers can't load it: {str(error).splitlines()[0]}") from None
        self.model: PreTrainedModel = model.eval()
        # transformers' class for a model type may put another pre-tokenizer in; the file's own is what the model was trained with
        tokenizer = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else AutoTokenizer
        self._tokenizer = tokenizer.from_pretrained(folder, local_files_only=True)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits at every position: (T,) -> (T, V)."""
        with torch.inference_mode():
            return self.model(input_ids=torch.tensor([list(ids)])).logits[0].float().numpy()

    def greedy(self, prompt: Sequence[int], new: int) -> tuple[list[int], list[float]]:
        """The likeliest next token `new` times, and how far each was ahead of the second in log-probability."""
        ids, chosen, lead = torch.tensor([list(prompt)]), [], []
        past = None
        with torch.inference_mode():
            for _ in range(new):
                out = self.model(input_ids=ids, past_key_values=past, use_cache=True)
                past, row = out.past_key_values, out.logits[0, -1].float()
                best = torch.topk(row, 2)
                chosen.append(int(best.indices[0]))
                lead.append(float(best.values[0] - best.values[1]))
                ids = torch.tensor([[chosen[-1]]])
        return chosen, lead

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self._tokenizer.chat_template)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The conversation through transformers' jinja, ready for the answer."""
        return str(self._tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False, add_generation_prompt=True))
