"""Conversations in the words of ours and of borrowed tokenizers, held against transformers' own rendering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from phiforge.core.errors import ConfigError, DataError
from phiforge.data.chat import CHATML, PLAIN
from phiforge.data.tokenizer import Tokenizer
from phiforge.train.chat_format import chat_format
from phiforge.train.finetune import grow
from tests.unit.train.chat_parts import OWN, borrowed, chat, ours, save_model

TURNS = chat("How many?", "Two.", "And now?", " Three <3\n")


def test_a_base_model_of_ours_gets_chatml() -> None:
    for template in (None, PLAIN.jinja, CHATML.jinja):
        form = chat_format(ours(template))
        assert form.tokenizer.chat_template == CHATML.jinja
        assert form.stops == [form.tokenizer.specials["<|im_end|>"], form.tokenizer.specials["<|eos|>"]]
        assert not form.added


@pytest.mark.parametrize("start", ["ours", "own", "gpt2"])
def test_ids_are_those_of_transformers(tmp_path: Path, start: str) -> None:
    tokenizer = {
        "ours": ours(),
        "own": borrowed(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), chat_template=OWN),
        "gpt2": borrowed(bos_token="<|endoftext|>"),
    }[start]
    form = chat_format(tokenizer)
    form.tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids, trained = form.encode(TURNS)
    asked = [dict(message) for message in TURNS]
    assert ids.tolist() == theirs.apply_chat_template(asked, tokenize=True, return_dict=False)
    prompt = theirs.apply_chat_template(asked[:1], tokenize=True, add_generation_prompt=True, return_dict=False)
    assert ids[: int(np.argmax(trained))].tolist() == prompt
    assert form.tokenizer.decode(ids[trained], specials=True) == "Two.<|im_end|> Three <3\n<|im_end|>"
    assert form.turn_end == ids[trained][-1] == Tokenizer.load(tmp_path).eot_id == form.stops[0]


def test_gpt2_gets_the_tokens_that_chatml_needs() -> None:
    base = borrowed(bos_token="<|endoftext|>")
    form = chat_format(base)
    assert form.added == {"<|pad|>": 257, "<|im_start|>": 258, "<|im_end|>": 259}
    t = form.tokenizer
    assert (t.bos_id, t.eos_id, t.pad_id, t.eot_id) == (256, 256, 257, 259)
    assert base.specials == {"<|endoftext|>": 256}, "the tokenizer that was given is left as it was"


def test_an_own_template_can_be_left_for_chatml() -> None:
    tokenizer = borrowed(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), chat_template=OWN, pad_token="<|endoftext|>")
    form = chat_format(tokenizer, "chatml")
    assert form.tokenizer.chat_template == CHATML.jinja and form.added == {}


def test_special_tokens_inside_messages_stay_text() -> None:
    form = chat_format(borrowed(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), chat_template=OWN))
    ids, trained = form.encode(chat("Say <|im_end|> twice", "<|im_end|><|im_end|>"))
    assert (ids == form.turn_end).sum() == 3, "system, user and assistant end once each"
    assert (ids[trained] == form.turn_end).sum() == 1


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "ends no answer with a special token"),
        ("{{ messages | length }}{{ messages[-1]['content'] }}<|im_end|>", "rewrites earlier turns"),
    ],
)
def test_templates_that_cannot_be_learnt_are_refused(template: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        chat_format(borrowed(("<|endoftext|>", "<|im_end|>"), chat_template=template))
    assert "chat_template=chatml" in str(caught.value)


def test_a_refusal_of_the_template_is_a_data_error() -> None:
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + OWN
    form = chat_format(borrowed(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), chat_template=strict))
    with pytest.raises(DataError, match="no system"):
        form.encode([{"role": "system", "content": "x"}, *chat("a", "b")])


@pytest.mark.parametrize(("kind", "rows", "size"), [("gpt2", None, 260), ("qwen2", None, 260), ("qwen2", 300, 300)])
def test_new_tokens_begin_near_the_mean_of_the_old(tmp_path: Path, kind: str, rows: int | None, size: int) -> None:
    tokenizer = borrowed()
    save_model(tmp_path, tokenizer, kind, rows=rows)
    model, untouched, again = (AutoModelForCausalLM.from_pretrained(tmp_path) for _ in range(3))
    form = chat_format(tokenizer)
    before = torch.get_rng_state()
    grow(model, form, 0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    grow(again, form, 0)
    for name in ("get_input_embeddings", "get_output_embeddings"):
        new, old = getattr(model, name)().weight, getattr(untouched, name)().weight
        assert new.shape == (size, 32)
        assert torch.equal(new[:257], old[:257]) and torch.equal(new, getattr(again, name)().weight)
        mean, spread = old[:257].mean(0), old[:257].std(0)
        away = (new[257:260] - mean) / spread
        assert 0.02 < away.abs().mean() < 0.2
    assert model.config.vocab_size == size
