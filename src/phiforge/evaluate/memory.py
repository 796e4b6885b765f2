"""Stage "memory": what a trained model does with what lies far back, beside a reference. Writes memory.json.

With a `recall` run as a further parent, its synthetic part goes into the same report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from phiforge.core import atomic, console
from phiforge.core.errors import DataError, RunError
from phiforge.core.runs import Run, RunWriter
from phiforge.data.pack import pack
from phiforge.data.packed import Packed
from phiforge.data.prepare import read_split
from phiforge.data.tokenizer import Tokenizer
from phiforge.evaluate.memory_config import MEMORY, RECALL, MemoryConfig
from phiforge.evaluate.needle import DISTANCES, Found, Needles, ask, make_needles
from phiforge.evaluate.positions import Bin, Excerpt, by_position, carries_state, edges, held_bytes, longest, streamed, windowed
from phiforge.evaluate.stage import load_model, token_byte_lengths
from phiforge.models.inspect import count_parameters
from phiforge.report.memory import bits_table, memory_sentences, needle_table

SCHEMA_VERSION = 1
CLEAR = 2.0  # standard errors that a gain must be above zero to be called one


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to be asked, with its tokenizer and the held-out text in its own tokens."""

    role: str
    run: Run
    model: Any
    tokenizer: Tokenizer
    packed: Packed

    @property
    def carries(self) -> bool:
        """Whether it goes on from a state of constant size."""
        return carries_state(self.model)

    @property
    def context_length(self) -> int | None:
        """Tokens it sees at most; None = no end."""
        return None if self.carries else int(getattr(self.model.config, "max_position_embeddings", 1024))

    def state_bytes(self, tokens: int) -> int:
        """Bytes in float32 of all it keeps after `tokens` tokens, counted from the tensors it goes on from."""
        return held_bytes(self.model, min(tokens, self.context_length or 1))

    def about(self) -> dict[str, Any]:
        """What the report says of it."""
        context = self.context_length
        return {
            "role": self.role,
            "name": self.run.path.name,
            "id": self.run.id,
            "kind": "carries a state" if self.carries else "attention",
            "parameters": count_parameters(self.model),
            "context_length": context,
            "state_bytes": self.state_bytes(context or 1),
        }


def run(config: MemoryConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """Ask `parents["model"]` (and `reference`) about held-out text of `parents["data"]`. Returns the final metrics.

    Raises:
        RunError: no model in a model run, no result in a recall run. DataError: no held-out text.
    """
    subjects = [_subject(role, parents) for role in ("model", "reference") if role in parents]
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "models": [subject.about() for subject in subjects],
        "notes": _notes(subjects),
    }
    if config.positions:
        found["positions"] = _positions(config, subjects, run)
    if config.needles:
        found["needles"] = _needles(config, subjects, run)
    if "recall" in parents:
        found["recall"] = recall_of(parents["recall"])
    found["sentence"] = " ".join(memory_sentences(found))
    atomic.write_json(run.path / MEMORY, found)
    for table in (bits_table(found), needle_table(found)):
        if table is not None:
            console.table(*table)
    for note in found["notes"]:
        run.log(f"note: {note}")
    for sentence in memory_sentences(found):
        run.log(sentence)
    return _metrics(found)


def recall_of(parent: Run) -> dict[str, Any]:
    """The result of a `recall` run. Raises RunError where there is none that can be read."""
    try:
        read = json.loads((parent.path / RECALL).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{parent.path / RECALL}: can't be read ({type(error).__name__})", fix="run the recall step again") from None
    return dict(read)


def _subject(role: str, parents: dict[str, Run]) -> Subject:
    model, tokenizer = load_model(parents[role].model_dir)
    packed = pack(read_split(parents["data"].path, "validation"), tokenizer)
    if packed.n_tokens <= 2 * packed.n_documents:
        raise DataError(f"{parents['data'].path}: holds no held-out text", fix="prepare more text, or a larger validation_fraction")
    return Subject(role=role, run=parents[role], model=model, tokenizer=tokenizer, packed=packed)


def _notes(subjects: list[Subject]) -> list[str]:
    notes = []
    for subject in subjects:
        if subject.context_length is not None:
            notes.append(
                f"{subject.run.path.name} sees {subject.context_length:,} tokens; farther places are read in a sliding window of that"
                " length, and needles that lie outside it can't be asked"
            )
    if len(subjects) == 2:
        one, other = (count_parameters(subject.model) for subject in subjects)
        if abs(one / other - 1) > 0.02:
            notes.append(f"the two models are of unequal size: {one:,} and {other:,} parameters")
    return notes


def _positions(config: MemoryConfig, subjects: list[Subject], run: RunWriter) -> dict[str, Any]:
    made = []
    documents = 0
    for subject in subjects:
        excerpt = longest(subject.packed, config.position_documents, config.position_length)
        documents = len(excerpt.starts)
        made.append({"role": subject.role, "bins": [place.to_json() for place in _bins(config, subject, excerpt)]})
        run.log(f"{subject.run.path.name}: read {int(excerpt.lengths.sum()):,} tokens of {documents} documents, place by place")
    return {"forget": config.forget, "length": config.position_length, "documents": documents, "models": made}


def _bins(config: MemoryConfig, subject: Subject, excerpt: Excerpt) -> list[Bin]:
    sizes = token_byte_lengths(subject.tokenizer)
    borders = edges(int(excerpt.lengths.max()))
    total = int(excerpt.lengths.sum())
    if subject.context_length is not None:
        with console.progress(f"{subject.role}: places", total) as bar:
            losses = windowed(subject.model, excerpt, context_length=subject.context_length, on_batch=bar.advance)
        return by_position(losses, sizes, borders, context_length=subject.context_length)
    with console.progress(f"{subject.role}: places", 2 * total) as bar:
        carried = streamed(subject.model, excerpt, on_tokens=bar.advance)
        forgetful = streamed(subject.model, excerpt, forget=config.forget, on_tokens=bar.advance)
    return by_position(carried, sizes, borders, forgetful=forgetful)


def _needles(config: MemoryConfig, subjects: list[Subject], run: RunWriter) -> dict[str, Any]:
    made: list[dict[str, Any]] = []
    wanted = [distance for distance in DISTANCES if distance <= config.needle_distance]
    for subject in subjects:
        texts = [_text(subject.packed, number) for number in range(subject.packed.n_documents)]
        needles, distances = _fitting(config, subject.tokenizer, texts, wanted)
        found: list[Found] = []
        if needles is None:
            run.log(f"{subject.run.path.name}: no held-out document is long enough to hide a needle in")
        else:
            with console.progress(f"{subject.role}: needles", None) as bar:
                found = ask(
                    subject.model,
                    needles,
                    distances,
                    context_length=subject.context_length,
                    budget=config.needle_budget if subject.carries else None,
                    on_tokens=bar.advance,
                )
        made.append({"role": subject.role, "distances": [one.to_json() for one in found], "chance": 0.1, "most_bits": math.log2(10)})
    return {"wanted": wanted, "models": made}


def _text(packed: Packed, number: int) -> np.ndarray:
    """The text tokens of a document, without bos and eos."""
    end = int(packed.starts[number + 1]) if number + 1 < packed.n_documents else packed.n_tokens
    return packed.tokens[int(packed.starts[number]) + 1 : end - 1]


def _fitting(config: MemoryConfig, tokenizer: Tokenizer, texts: list[np.ndarray], wanted: list[int]) -> tuple[Needles | None, list[int]]:
    """Needles with as much book behind them as the documents have, and the distances that fit."""
    for last in range(len(wanted), 0, -1):
        made = make_needles(tokenizer, texts, instances=config.needle_instances, longest=wanted[last - 1], seed=config.seed)
        if made is not None:
            return made, wanted[:last]
    return None, []


def _metrics(found: dict[str, Any]) -> dict[str, Any]:
    """The few figures that run.json keeps."""
    metrics: dict[str, Any] = {}
    for model in found["models"]:
        metrics[f"{model['role']}_parameters"] = model["parameters"]
        metrics[f"{model['role']}_state_bytes"] = model["state_bytes"]
    last: Callable[[dict[str, Any]], Any] = lambda model: model["bins"][-1] if model["bins"] else None  # noqa: E731
    for model in found.get("positions", {}).get("models", []):
        if place := last(model):
            metrics[f"{model['role']}_last_bits_per_byte"] = place["bits_per_byte"]["value"]
            metrics[f"{model['role']}_last_position"] = place["last"]
    return {name: value for name, value in metrics.items() if value is not None}
