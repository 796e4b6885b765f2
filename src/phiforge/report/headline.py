"""The sentence at the head of a report: what this run came to, in words."""

from __future__ import annotations

from phiforge.report import memory
from phiforge.report.format import count, duration, number, size, some
from phiforge.report.read import RunView, number_of


def headline(view: RunView) -> str:
    """One or two plain sentences; always something true, also of a run that broke off."""
    outcome = _outcome(view)
    if view.status == "complete":
        return outcome or f"The stage {view.manifest.stage} finished in {duration(view.manifest.seconds)}."
    return " ".join(part for part in (_ending(view), outcome) if part)


def _ending(view: RunView) -> str:
    step = last(view, "step")
    reached = f" at step {number(int(step))}" if step else ""
    if view.status == "failed":
        return f"This run failed{reached}."
    if view.status == "running":
        return f"This run is still going{reached}; the page shows what it had written when it was drawn."
    return f"This run was interrupted{reached}; the same command with --resume goes on from its last checkpoint."


def _outcome(view: RunView) -> str:
    if isinstance(view.evaluation.get("sentence"), str):
        return str(view.evaluation["sentence"])
    for describe in (_memory, _training, _gates, _data, _tokenizer):
        sentence = describe(view)
        if sentence:
            return sentence
    return ""


def _memory(view: RunView) -> str:
    return memory.opening(view.path)


def _training(view: RunView) -> str:
    points = [
        (number_of(line.get("step")), value) for line in view.metrics if (value := number_of(line.get("eval_bits_per_byte"))) is not None
    ]
    steps, tokens = last(view, "step"), last(view, "tokens")
    if not steps or not any("loss" in line for line in view.metrics):
        return ""
    begin = f"Trained for {number(int(steps))} steps" + (f" on {count(int(tokens))} tokens" if tokens else "")
    final = number_of(view.manifest.metrics.get("eval_bits_per_byte"))
    if final is None and points:
        final = points[-1][1]
    if final is None:
        losses = [value for line in view.metrics if (value := number_of(line.get("loss"))) is not None]
        return f"{begin}; the training loss went from {losses[0]:.3f} to {losses[-1]:.3f}." if len(losses) > 1 else f"{begin}."
    first = f", down from {points[0][1]:.2f} at step {number(int(points[0][0] or 0))}" if points and points[0][1] > final else ""
    return f"{begin}. The model needs {final:.3f} bits for each byte of held-out text{first} (8 is no compression at all; fewer is better)."


def _gates(view: RunView) -> str:
    gates = view.manifest.gates
    if not gates:
        return ""
    failed = [check.name for gate in gates for check in gate.checks if not check.passed]
    if failed:
        return f"The {gates[0].gate} gate failed: {', '.join(failed)}."
    checks = sum(len(gate.checks) for gate in gates)
    return f"All {checks} checks of the {' and '.join(gate.gate for gate in gates)} gate passed."


def _data(view: RunView) -> str:
    files = {name: number_of(view.manifest.metrics.get(name)) for name in ("train_bytes", "validation_bytes", "train_documents")}
    if files["train_bytes"] is None:
        return ""
    begin = f"{size(files['train_bytes'])} of text to train on"
    if files["train_documents"] is not None:
        begin += f", in {some(int(files['train_documents']), 'document')}"
    held_out = files["validation_bytes"]
    return f"{begin}; {size(held_out)} held out to judge by." if held_out else f"{begin}; nothing is held out."


def _tokenizer(view: RunView) -> str:
    ids, density = number_of(view.manifest.metrics.get("vocab_size")), number_of(view.manifest.metrics.get("bytes_per_token"))
    if ids is None:
        return ""
    return f"A vocabulary of {number(int(ids))} tokens" + (
        f"; each spells {density:.2f} bytes of held-out text on average." if density else "."
    )


def last(view: RunView, name: str) -> float | None:
    """The latest value of a name in the metrics."""
    return next((value for line in reversed(view.metrics) if (value := number_of(line.get(name))) is not None), None)
