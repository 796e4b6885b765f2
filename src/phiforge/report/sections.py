"""The parts of a run's report. Each takes the run and gives HTML, or nothing when the run has nothing to show there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from phiforge.core.errors import RunError
from phiforge.core.runs import Run
from phiforge.report.curves import charts, rollbacks
from phiforge.report.format import count, duration, number, size, some, when, words
from phiforge.report.html import Markup, badge, bars, card, details, esc, facts, join, table, tag, tiles
from phiforge.report.nested import nested, plain
from phiforge.report.read import RunView, dicts, number_of
from phiforge.report.svg import Chart, draw

_STATUS = {"complete": "good", "failed": "bad", "interrupted": "warn", "running": ""}
_COUNTED = {
    "tokens": "tokens seen",
    "steps": "steps",
    "train_documents": "documents to train on",
    "train_bytes": "training text",
    "validation_bytes": "held out",
    "vocab_size": "vocabulary",
    "bytes_per_token": "bytes per token",
}
_SMALL = 10_000  # bytes: below this the size of a run's files tells nobody anything
_MOST_SAMPLES = 8  # steps shown at once; the others are folded


def head(view: RunView, sentence: str) -> Markup:
    """Name, status, when, and the sentence."""
    m = view.manifest
    labels = [badge(view.status, _STATUS.get(view.status, ""))]
    labels += [
        badge(text)
        for text in (when(m.started), duration(m.seconds) if m.seconds else "", f"seed {m.seed}" if m.seed is not None else "")
        if text
    ]
    return tag(
        "header",
        join(
            [
                tag("p", f"phiforge · {m.stage}", klass="eyebrow"),
                tag("h1", view.name),
                tag("div", join(labels), klass="badges"),
                tag("p", sentence, klass="lead"),
            ]
        ),
    )


def figures(view: RunView) -> Markup:
    """The numbers that people ask for first."""
    found = [*_size_tiles(view), *_score_tiles(view)]
    metrics = view.manifest.metrics
    for name, label in _COUNTED.items():
        value = number_of(metrics.get(name))
        if value is not None:
            whole = value == int(value)
            shown = (
                size(value) if name.endswith("_bytes") else count(int(value)) if value >= 1e5 else number(int(value) if whole else value)
            )
            found.append((label, shown, ""))
    return tiles(found)


def _size_tiles(view: RunView) -> list[tuple[str, str, str]]:
    found = []
    if view.parameters:
        found.append(("true size", count(view.parameters), f"{view.parameters:,} parameters"))
    if view.bytes > _SMALL:
        found.append(("on disk", size(view.bytes), some(len(view.manifest.artefacts), "file")))
    return found


def _score_tiles(view: RunView) -> list[tuple[str, str, str]]:
    metrics = view.manifest.metrics
    meaning = {
        "eval_bits_per_byte": ("bits per byte", ".3f", "8 = nothing learned"),
        "eval_perplexity": ("perplexity", ".4g", "per token"),
        "eval_accuracy": ("next token right", ".1%", "first guess"),
    }
    found = []
    for name, (label, shown, about) in meaning.items():
        value, error = number_of(metrics.get(name)), number_of(metrics.get(f"{name}_standard_error"))
        if value is not None:
            doubt = f"± {error:{shown}}, " if error else ""
            found.append((label, f"{value:{shown}}", doubt + about))
    return found


def trouble(view: RunView) -> Markup:
    """Why it ended early, and what could not be read."""
    parts: list[Any] = []
    if view.manifest.error:
        parts.append(tag("p", view.manifest.error))
    parts += [tag("p", text) for text in view.troubles]
    parts += [
        tag("p", f"The watchdog saw {back.reason} at step {number(int(back.at))} and went back to step {number(int(back.to))}.")
        for back in rollbacks(view)
    ]
    title = "What went wrong" if view.status == "failed" else "To know"
    return card(title, *parts, klass="trouble" if view.status == "failed" else "")


def baselines(view: RunView) -> Markup:
    """The model beside simple methods, as bars."""
    found = view.evaluation
    model = found.get("model")
    if not isinstance(model, dict):
        return Markup("")
    rows: list[tuple[str, float, str, bool]] = []
    notes = []
    entries = [("this model", model.get("bits_per_byte"), True, "")]
    for b in dicts(found.get("baselines")):
        label, gap = str(b.get("label", b.get("name", "?"))), b.get("gap")
        said_of = [str(b["about"])] if b.get("about") else []
        if isinstance(gap, dict) and number_of(gap.get("value")) is not None:
            error = number_of(gap.get("standard_error"))
            said_of.append(f"{gap['value']:+.3f}{f' ± {error:.3f}' if error else ''} bits against this model, over the same bytes")
        entries.append((label, b.get("bits_per_byte"), False, "; ".join(said_of)))
    for label, score, strong, about in entries:
        value = number_of(score.get("value")) if isinstance(score, dict) else None
        if value is None or not isinstance(score, dict):
            continue
        error = number_of(score.get("standard_error"))
        rows.append((label, value, f"{value:.3f} ± {error:.3f}" if error else f"{value:.3f}", strong))
        if about:
            notes.append(f"{label}: {about}")
    text = found.get("text")
    said = [note for note in found.get("notes") or [] if isinstance(note, str)] if isinstance(found.get("notes"), list) else []
    if isinstance(text, dict):
        counted = [some(int(text[k]), k.removesuffix("s")) for k in ("documents", "bytes", "tokens") if number_of(text.get(k)) is not None]
        said.insert(0, f"scored on the {text.get('split', '')} text: {', '.join(counted)}")
    below = join(tag("p", f"{note}.", klass="note") for note in [*notes, *said])
    return card("What the number means", bars(rows), tag("div", below), note="Bits for each byte of the text: fewer is better.")


def curves(view: RunView) -> Markup:
    """Everything that was logged over steps."""
    known, rest = charts(view)
    return card(
        "Curves",
        tag("div", join(_figure(chart) for chart in known), klass="grid") if known else "",
        details(f"{len(rest)} more", tag("div", join(_figure(chart) for chart in rest), klass="grid")) if rest else "",
    )


def _figure(chart: Chart) -> Markup:
    unit = join([" ", tag("span", chart.unit)]) if chart.unit else ""
    return tag("figure", join([tag("figcaption", join([chart.title, unit])), draw(chart)]))


def samples(view: RunView) -> Markup:
    """What the model said as it learned: the first, the last and an even choice between."""
    steps = list(dict.fromkeys(line.get("step") for line in view.samples))
    if not steps:
        return Markup("")
    most = min(_MOST_SAMPLES, len(steps))
    shown = {steps[round(i * (len(steps) - 1) / max(1, most - 1))] for i in range(most)}
    blocks = {step: _said(step, [line for line in view.samples if line.get("step") == step], step == steps[-1]) for step in steps}
    hidden = [blocks[step] for step in steps if step not in shown]
    return card(
        "In its own words",
        tag("div", join(blocks[step] for step in steps if step in shown), klass="samples"),
        details(f"{len(hidden)} more steps", tag("div", join(hidden), klass="samples")) if hidden else "",
        note="Text the model wrote as it learned; the prompt is grey.",
    )


def _said(step: Any, lines: list[dict[str, Any]], latest: bool) -> Markup:
    """All that was said at one step."""
    texts = []
    for line in lines:
        prompt = line.get("prompt")
        texts.append(tag("pre", join([tag("b", prompt) if isinstance(prompt, str) and prompt else "", line["text"]])))
    at = tag("div", f"step {number(step)}" + (", the last" if latest else ""), klass="at")
    return tag("div", join([at, *texts]), klass="sample last" if latest else "sample")


def data(view: RunView) -> Markup:
    """The data report, whatever its shape."""
    content = {key: value for key, value in view.data.items() if key not in ("version", "schema_version")}
    return card("Data", nested(content))


def gates(view: RunView) -> Markup:
    """Every check of every gate against its limit."""
    parts: list[Any] = []
    for report in view.manifest.gates:
        title = join([report.gate, " ", badge("passed" if report.passed else "failed", "good" if report.passed else "bad")])
        rows = [
            [
                check.name,
                number(check.value),
                check.limit,
                badge("ok" if check.passed else "failed", "good" if check.passed else "bad"),
                check.note,
            ]
            for check in report.checks
        ]
        parts += [
            tag("h3", title),
            tag("p", report.note, klass="note") if report.note else "",
            table(["check", "measured", "must be", "", ""], rows),
        ]
    return card("Gates", *parts)


def results(view: RunView) -> Markup:
    """The final metrics, all of them."""
    return card("Final figures", facts((words(name), plain(value, name)) for name, value in view.manifest.metrics.items()))


def files(view: RunView) -> Markup:
    """Artefacts with size and sha256, largest first."""
    made = sorted(view.manifest.artefacts.items(), key=lambda item: (-item[1].bytes, item[0]))
    rows = [[name, size(a.bytes), tag("span", a.sha256, klass="hash")] for name, a in made]
    shown, rest = rows[:8], rows[8:]
    columns = ["file", "size", "sha256"]
    return card("Files", table(columns, shown), details(f"{len(rest)} more", table(columns, rest)) if rest else "")


def decisions(view: RunView) -> Markup:
    """What was decided on this machine, and why."""
    m = view.manifest
    rows = [[words(name), _decided(value), m.reasons.get(name, "")] for name, value in m.decisions.items()]
    return card(
        "Decided on this machine", table(["what", "value", "why"], rows), note="Probed once, recorded, and reused when the run is resumed."
    )


def _decided(value: Any) -> str:
    """A value in a word; several by name; digests cut short (run.json has them whole)."""
    if isinstance(value, dict):
        return join(tag("div", join([f"{words(str(name))}: ", _decided(inner)])) for name, inner in value.items())
    if isinstance(value, str) and len(value) >= 32 and set(value) <= set("0123456789abcdef"):
        return tag("span", f"{value[:12]}…", klass="hash", title=value)
    return plain(value)


def lineage(view: RunView) -> Markup:
    """The runs this one was made from, back to the first, and its input files."""
    inputs = [[name, tag("span", digest, klass="hash")] for name, digest in view.manifest.inputs.items()]
    parts: list[Any] = [_tree(view.manifest.parents, view.path, 0), table(["input file", "sha256"], inputs[:20])]
    if len(inputs) > 20:
        parts.append(details(f"{len(inputs) - 20:,} more", table(["input file", "sha256"], inputs[20:])))
    return card("Lineage", *parts)


def _tree(parents: dict[str, Any], home: Path, depth: int) -> Markup:
    if not parents or depth > 6:
        return Markup("")
    items = []
    for role, parent in parents.items():
        path = Path(parent.path)
        above, gone = Markup(""), False
        try:
            above = _tree(Run.open(path).manifest.parents, home, depth + 1)
        except (RunError, OSError):
            gone = True
        label: Any = tag("code", parent.id)
        if (path / "report.html").is_file():
            label = tag("a", label, href=_relative(path / "report.html", home))
        gone_note = tag("span", " (not there any more)", klass="role") if gone else ""
        items.append(tag("li", join([tag("span", f"{role} ← {parent.stage} ", klass="role"), label, gone_note, above])))
    return tag("ul", join(items), klass="tree")


def _relative(target: Path, home: Path) -> str:
    """A link that holds when the folder of runs is moved as a whole."""
    return Path(os.path.relpath(target, home)).as_posix().replace("%", "%25").replace(" ", "%20").replace("#", "%23").replace("?", "%3F")


def settings(view: RunView) -> Markup:
    """The resolved config, and where it ran."""
    m = view.manifest
    command = tag("pre", "phiforge " + " ".join(m.command)) if m.command else ""
    machine = facts([(words(k), plain(v, k)) for k, v in m.hardware.items()])
    versions = facts([*m.versions.items(), *([("commit", m.git_commit)] if m.git_commit else [])])
    return card(
        "How it was made",
        command,
        details("config: every value that was used", nested(view.config)) if view.config else "",
        details("machine", machine),
        details("versions", versions),
    )


def foot(view: RunView) -> Markup:
    """Where this page came from."""
    return tag(
        "footer", join(["run ", tag("code", view.manifest.id), esc(" · drawn by phiforge from the run folder; this page loads nothing.")])
    )
