"""Conversations as rows: what is learnt, what is left out, and that no conversation sees another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from phiforge.core.config import build
from phiforge.core.errors import ConfigError, DataError
from phiforge.core.runs import RunWriter, new_manifest
from phiforge.data.packed import IGNORED
from phiforge.train.chat_format import chat_format
from phiforge.train.chat_rows import ChatRows, ChatSet, Example, best_fit, load, split
from phiforge.train.finetune import load_model
from phiforge.train.finetune_config import FinetuneConfig
from phiforge.train.forward import TrainingForward, supports
from tests.unit.train.chat_parts import chat, ours, save_model

FORM = chat_format(ours())


def example(number: int, size: int, answer: int = 3) -> Example:
    """`size` positions whose last `answer` tokens are learnt; ids and key are its own."""
    ids = np.random.default_rng(number).integers(5, 200, size + 1).astype(np.int32)
    trained = np.arange(size + 1) > size - answer
    return Example(ids, trained, "", number.to_bytes(4, "big"))


def read(folder: Path, *lines: object, fraction: float = 0.0, context_length: int | None = None, most: int = 512) -> ChatSet:
    path = folder / "chats.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return load([str(path)], FORM, validation_fraction=fraction, context_length=context_length, most=most)


def test_rows_hold_every_conversation_once_and_whole() -> None:
    sizes = np.random.default_rng(0).integers(1, 64, 200).tolist()
    rows = best_fit(sizes, 64, list(range(200)))
    assert sorted(item for row in rows for item in row) == list(range(200))
    assert all(sum(sizes[item] for item in row) <= 64 for row in rows)
    assert len(rows) <= -(-sum(sizes) // 64) * 1.1


def test_labels_are_the_answers_and_positions_restart() -> None:
    examples = [example(0, 5), example(1, 4)]
    rows = ChatRows(examples, 12, pad_id=0, seed=0)
    batch = {name: values[0] for name, values in rows.batch([0]).items()}
    assert len(rows) == 1
    a, b = (examples[number].ids.tolist() for number in rows.rows[0])
    assert batch["input_ids"].tolist() == [*a[:-1], *b[:-1], 0, 0, 0]
    assert batch["shift_labels"].tolist() == [IGNORED] * 2 + a[3:] + [IGNORED] * 1 + b[2:] + [IGNORED] * 3
    assert batch["position_ids"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2]
    assert all(values.dtype == np.int64 for values in batch.values())


@pytest.mark.parametrize("kind", ["starcoder2", "llama", "gpt2", "qwen2"])
def test_a_row_gives_each_conversation_the_gradient_it_has_alone(tmp_path: Path, kind: str) -> None:
    parent = save_model(tmp_path / "base", ours(), kind)
    config = build(FinetuneConfig, {"data": "none.jsonl"}, where="test")
    model = load_model(parent.model_dir, FORM, config, RunWriter(tmp_path, new_manifest("finetune", config), config)).eval()
    forward = TrainingForward(model, precision="fp32") if supports(model) else model
    examples = [example(number, size) for number, size in enumerate((20, 13, 9, 5))]

    def gradient(rows: ChatRows) -> torch.Tensor:
        model.zero_grad()
        for index in range(len(rows)):
            batch = {name: torch.from_numpy(values) for name, values in rows.batch([index]).items()}
            forward(**batch, labels=batch["shift_labels"], num_items_in_batch=12)["loss"].backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])

    together = ChatRows(examples, 60, pad_id=0, seed=0)
    assert len(together) == 1
    alone = ChatRows(examples, 20, pad_id=0, seed=0)
    alone.rows = [[0], [1], [2], [3]]
    torch.testing.assert_close(gradient(together), gradient(alone), atol=1e-6, rtol=1e-4)


def test_only_the_assistant_and_the_end_of_its_turn_are_learnt(tmp_path: Path) -> None:
    chats = read(tmp_path, {"messages": chat("Hi", "Hello", "Bye", "Ciao")})
    ids, trained = chats.train[0].ids, chats.train[0].trained
    assert FORM.tokenizer.decode(ids[trained], specials=True) == "Hello<|im_end|>Ciao<|im_end|>"
    assert FORM.tokenizer.decode(chats.train[0].prompt, specials=True) == "<|bos|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert chats.train[0].question == "Hi"


def test_a_question_after_the_last_answer_costs_nothing(tmp_path: Path) -> None:
    asked, answered = (read(tmp_path, {"messages": messages}).train[0] for messages in (chat("Hi", "Hello", "Why"), chat("Hi", "Hello")))
    assert asked.ids.tolist() == answered.ids.tolist()


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    chats = read(
        tmp_path,
        {"messages": chat("Hi", "Hello")},
        {"messages": chat("Hi", "Hello")},
        {"messages": chat("Hi", "")},
        {"messages": [{"role": "user", "content": "Hi"}]},
        {"instruction": "x" * 90, "output": "y"},
        {"instruction": "Count", "input": "to nine", "output": "123456789" * 5},
        context_length=64,
    )
    assert vars(chats.counts) == {"conversations": 6, "without_answer": 2, "question_too_long": 1, "truncated": 1, "repeats": 1}
    assert len(chats.train) == 3 and max(example.positions for example in chats.train) == 64
    assert not chats.validation


def test_the_row_is_as_long_as_the_longest_conversation_needs(tmp_path: Path) -> None:
    short, long, longer = ({"messages": chat("Hi", "x" * n)} for n in (5, 300, 3000))
    assert read(tmp_path, short).context_length == 256
    assert read(tmp_path, short, most=96).context_length == 96
    assert read(tmp_path, short, long).context_length == 328
    assert read(tmp_path, short, longer, most=1 << 15).context_length == 2048
    with pytest.raises(ConfigError, match="beyond the model's 512"):
        read(tmp_path, short, context_length=513)


def test_equal_conversations_are_on_one_side() -> None:
    examples = [example(number % 40, 8) for number in range(120)]
    train, validation = split(examples, 0.1)
    assert len(validation) == 4 and len(train) == 3 * 36
    assert not {e.key for e in train} & {e.key for e in validation}
    shuffled, again = split(examples[::-1], 0.1)
    assert {e.key for e in again} == {e.key for e in validation} and len(shuffled) == len(train)


@pytest.mark.parametrize(("fraction", "held"), [(0.0, 0), (0.01, 1), (0.5, 1), (0.99, 1)])
def test_a_small_set_holds_out_one_and_keeps_one(fraction: float, held: int) -> None:
    train, validation = split([example(number, 8) for number in range(2)], fraction)
    assert (len(train), len(validation)) == (2 - held, held)
    assert len(split([example(0, 8)] * 3, fraction)[0]) == 3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1: not JSON"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "line 1: turn 1 has role 'bot' -> one of: system, user, assistant"),
        ({"messages": [{"role": "user", "content": 3}]}, "line 1: turn 1 has no content of type string"),
        ({"messages": []}, "line 1: the conversation is no list of turns"),
        ({"text": "x", "label": 1}, r"line 1: neither messages nor .* \(has: text, label\)"),
        ([1], "line 1: a list, not an object"),
        ({"messages": [{"role": "user", "content": "x"}]}, "none of 1 conversations has an assistant turn"),
        ({"instruction": "x" * 900, "output": "y"}, "every question alone fills a row of 512 tokens"),
        ("", r"chats.jsonl: no conversation in it \(the file is empty\)"),
    ],
)
def test_bad_data_is_one_line(tmp_path: Path, line: object, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        read(tmp_path, line)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.jsonl: no such file"):
        load([str(tmp_path / "no.jsonl")], FORM, validation_fraction=0.1, context_length=None, most=64)
