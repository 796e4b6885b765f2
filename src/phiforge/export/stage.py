"""Stage "export": write the file, hold it against the model, give it its name only when it passes.

model-F16.gguf    the weights and the tokenizer (named after its type; `unchecked-...` while the gate has not passed)
Modelfile         for `ollama create`, where the chat template is one of ours
model/            `to=hf`: the model folder with a model card
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from phiforge.core.atomic import write_text
from phiforge.core.errors import ConfigError, PhiforgeError
from phiforge.core.gates import Check, GateReport
from phiforge.core.runs import Run, RunWriter
from phiforge.data.chat import Template
from phiforge.data.prepare import read_split
from phiforge.export.config import ExportConfig
from phiforge.export.gguf import Written, write_gguf
from phiforge.export.hf import export_folder
from phiforge.export.ollama import modelfile, next_commands, stops_of, template_for

GENERIC = {"model", "pretrain", "finetune", "train", "final", "out"}  # folder names that say nothing about a model
HELD_OUT = 20_000  # characters of the model's own validation text that the gate reads


def run(config: ExportConfig, parents: dict[str, Run], run: RunWriter) -> dict[str, Any]:
    """The stage. Metrics: bytes, parameters, bits per weight, seconds of writing and of the gate, what the gate measured."""
    model = parents["model"]
    name = config.name or name_of(model)
    if config.to == "hf":
        return export_folder(model, run, name)
    kind = config.outtype.upper()
    final = run.path / f"model-{kind}.gguf"
    unchecked = run.path / f"unchecked-{final.name}"
    started = time.monotonic()
    written = write_gguf(model.model_dir, unchecked, kind, name=name)
    seconds = time.monotonic() - started
    text = _modelfile(config, written, final)
    metrics: dict[str, Any] = {
        "gguf_bytes": written.nbytes,
        "parameters": written.parameters,
        "bits_per_weight": round(written.bits_per_weight, 4),
        "write_seconds": round(seconds, 3),
    }
    run.log(written.line().removeprefix("unchecked-"))
    if written.plan.kept_wider:
        run.log(f"{len(written.plan.kept_wider)} tensors stay F16: their rows are no multiple of 32 weights")
    metrics |= _gate(config, model, written, text, run)
    unchecked.replace(final)
    run.artefact(final.name, sha256=written.sha256)
    if text is not None:
        write_text(run.path / "Modelfile", text)
        run.artefact("Modelfile")
        run.note(f"next, in {run.path}: " + "; ".join(next_commands(ollama_name(name))))
    return metrics


def _modelfile(config: ExportConfig, written: Written, final: Path) -> str | None:
    vocabulary = written.plan.vocabulary
    template: Template | None = template_for(vocabulary.chat_template)
    if template is None:
        if config.to == "ollama":
            raise ConfigError(
                "this model's chat template is not one that phiforge can write for Ollama", fix="to=gguf keeps it for llama.cpp"
            )
        return None
    return modelfile(final.name, template, stops=stops_of(template, vocabulary.tokens, vocabulary.eos_id, vocabulary.eot_id))


def _gate(config: ExportConfig, model: Run, written: Written, text: str | None, run: RunWriter) -> dict[str, Any]:
    if not config.gate:
        run.gate(GateReport(gate="parity", checks=[], note="switched off with gate=false: this file was not checked"))
        run.log("gate=false: this file was not held against the model it came from")
        return {}
    from phiforge.export.parity import parity_gate  # torch and transformers, which writing does not need

    started = time.monotonic()
    kind = config.outtype.upper()
    report = parity_gate(model.model_dir, written.path, outtype=kind, modelfile=text, text=held_out_text(model))
    run.gate(report)
    for check in report.checks:
        run.log(("  ok      " if check.passed else "  FAILED  ") + check.line())
    if not report.passed:
        run.log(f"{written.path.name} is kept for looking into; it does not compute what was trained")
    report.require()
    return {"gate_seconds": round(time.monotonic() - started, 3), **_measured(report.checks)}


def _measured(checks: list[Check]) -> dict[str, float]:
    """The gate's numbers under short names, for comparing runs."""
    names = {
        "mean KL": "parity_kl",
        "top-1 agreement": "parity_top1",
        "largest |difference of next-token log-probability|": "parity_log_prob",
    }
    return {
        short: float(check.value)
        for check in checks
        for long, short in names.items()
        if check.name.startswith(long) and isinstance(check.value, float)
    }


def held_out_text(model: Run) -> str | None:
    """Held-out text of the model's own kind, where the data it was trained on is still there."""
    data = model.manifest.parents.get("data")
    if data is None or not Run.is_run(data.path):
        return None
    try:
        pieces, size = [], 0
        for document in read_split(Path(data.path), "validation"):
            pieces.append(document.text[: HELD_OUT - size])
            size += len(pieces[-1])
            if size >= HELD_OUT:
                break
    except (PhiforgeError, OSError):
        return None
    return "\n".join(pieces) or None


def name_of(model: Run) -> str:
    """A name after the run's folder; the one above where it is only called after its stage."""
    path = model.path.resolve()
    return path.parent.name if path.name in GENERIC and path.parent.name else path.name


def ollama_name(name: str) -> str:
    """The nearest name that Ollama takes.

    >>> ollama_name("Codette 1M!")
    'codette-1m'
    """
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-._")[:60] or "model"
