"""The checks behind lab/poison.py, each a function of what lies before it that yields what it finds."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from phiforge.core.runs import Run
from phiforge.lab.experiment import flat
from phiforge.lab.overlap import Leak, leak
from phiforge.lab.reading import finite
from phiforge.lab.scene import Finding, Scene, Trial, finding

_CLOCK_WORDS = ("second", "runtime", "speed", "memory", "wall", "throughput", "latency")
_PER_TOKEN = ("loss", "perplexity", "accuracy", "ppl", "nll")
# Settings that can change the order or the choice of training rows; a difference in anything else can't.
_ORDER_WORDS = tuple("seed data row batch epoch context accum sampl curric order difficult max_ vocab split valid seconds pack".split())
_TOKENS_ALIKE = 0.01


# -- single runs --------------------------------------------------------------------------------------------------------


def not_counted(scene: Scene) -> Iterator[Finding]:
    """Missing seeds, failed and unfinished runs, runs without the metric: named, never silently left out."""
    for arm, trial in scene.each():
        if not trial.outcome.complete:
            yield finding(trial.outcome.status, arm, trial, f"{trial.outcome.status}: {trial.outcome.error or 'no value'}", invalid=False)


def not_finished(scene: Scene) -> Iterator[Finding]:
    """A value read from a run that its manifest doesn't call complete."""
    for arm, trial in scene.each():
        if trial.run is not None and trial.outcome.complete and trial.run.manifest.status == "failed":
            yield finding("not finished", arm, trial, f"its run.json says {trial.run.manifest.status}", invalid=True)


def wrong_seed(scene: Scene) -> Iterator[Finding]:
    """A trial that trained with another seed than the one it stands for shares no stream with its pair."""
    for arm, trial in scene.each():
        recorded = trial.run.manifest.seed if trial.run and trial.outcome.streams else None
        if recorded is not None and recorded != trial.outcome.seed and not scene.by_order:
            yield finding("seed", arm, trial, f"it stands for seed {trial.outcome.seed} and recorded seed {recorded}", invalid=True)


def went_back(scene: Scene) -> Iterator[Finding]:
    """Runs that a watchdog put back, or whose log goes back in steps."""
    for arm, trial in scene.each():
        back = [line for line in trial.lines if line.get("rollback")]
        if back:
            times = f"{len(back)} time{'s' if len(back) > 1 else ''} (at step {back[0].get('step', '?')})"
            text = f"was put back {times}: what it did then is not the arm's settings alone"
            yield finding("rolled back", arm, trial, text, invalid=False)
            continue
        steps = [line["step"] for line in trial.lines if finite(line.get("step"))]
        turn = next((i for i, (one, two) in enumerate(itertools.pairwise(steps)) if two < one), None)
        if turn is not None:
            text = f"its log goes back from step {steps[turn]:g} to {steps[turn + 1]:g}: it was resumed or put back without cutting its log"
            yield finding("resumed", arm, trial, text, invalid=False)


def not_a_number(scene: Scene) -> Iterator[Finding]:
    """NaN on the way of a run that still ended with a number."""
    for arm, trial in scene.each():
        bad = next((line for line in trial.lines if any(line.get(name, 0.0) is None for name in ("loss", scene.metric))), None)
        if bad is not None and trial.outcome.complete:
            text = f"its loss was no number at step {bad.get('step', '?')}, though it ended with one"
            yield finding("not a number", arm, trial, text, invalid=False)


def same_run_twice(scene: Scene) -> Iterator[Finding]:
    """One run under two seeds, or on both sides: the same folder, the same id, the same weights or the same log to the last digit."""
    seen: dict[tuple[str, str], tuple[str, Trial]] = {}
    for arm, trial in scene.each():
        if trial.outcome.status == "missing":
            continue
        marks = {
            "the same folder": str(trial.outcome.folder.resolve()) if trial.outcome.folder else None,
            "the same run id": trial.run.id if trial.run else None,
            "the same weights": trial.weights,
            "the same log to the last digit": trial.history,
        }
        for what, mark in marks.items():
            if mark is None:
                continue
            first_arm, first = seen.setdefault((what, mark), (arm, trial))
            if first is trial:
                continue
            alike = first.outcome.seed == trial.outcome.seed and what.startswith(("the same weights", "the same log"))
            text = (
                f"has {what} as {first_arm} with that seed: its settings changed nothing"
                if alike
                else f"has {what} as {first_arm}, seed {first.outcome.seed}: one run is no second one"
            )
            yield finding("the same run", arm, trial, text, invalid=not alike)
            break


# -- pairs --------------------------------------------------------------------------------------------------------------


def streams(trial: Trial, name: str) -> str | None:
    """The digest that a trial recorded of a stream; None where it recorded none."""
    found = trial.outcome.streams.get(name)
    return None if found is None else str(found)


def _differ(one: Trial, two: Trial, stream: str) -> bool:
    return None not in (streams(one, stream), streams(two, stream)) and streams(one, stream) != streams(two, stream)


def _text_of(trial: Trial) -> Any:
    """What was validated on, whatever the tokenizer: the digest of the data run's held-out documents, else of the files that were read."""
    data = trial.parent("data")
    if data is not None and (data.path / "data.json").is_file():
        try:
            return json.loads((data.path / "data.json").read_text(encoding="utf-8"))["split"]["validation"]["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
    return None


def other_tokenizer(scene: Scene) -> Iterator[Finding]:
    """Values for each token don't compare across tokenizers; bits per byte do."""
    for arm, trial, base in scene.pairs():
        if _differ(trial, base, "tokenizer"):
            per_token = "bits_per_byte" not in scene.metric and any(word in scene.metric.lower() for word in _PER_TOKEN)
            text = f"another tokenizer than {scene.baseline}: " + (
                f"{scene.metric} is counted by token, and the tokens differ (eval_bits_per_byte compares)"
                if per_token
                else f"{scene.metric} still compares"
            )
            yield finding("tokenizer", arm, trial, text, invalid=per_token)


def other_validation(scene: Scene) -> Iterator[Finding]:
    """Values measured on other text are values of something else."""
    for arm, trial, base in scene.pairs():
        texts = _text_of(trial), _text_of(base)
        if None not in texts:
            apart = texts[0] != texts[1]
        else:  # the digests are of tokens: under another tokenizer they tell nothing
            apart = _differ(trial, base, "validation_text") and not _differ(trial, base, "tokenizer")
        counts = [t.run.manifest.metrics.get("eval_text_tokens") if t.run else None for t in (trial, base)]
        if not apart and None not in counts and counts[0] != counts[1] and not _differ(trial, base, "tokenizer"):
            apart = True
        if apart:
            text = f"measured on other validation text than {scene.baseline}: the values don't compare"
            yield finding("validation text", arm, trial, text, invalid=True)


def trained_on_validation(scene: Scene) -> Iterator[Finding]:
    """Training text that holds the text that is measured on: by digest, by document, by passages."""
    known: dict[tuple[str, str], Leak | None] = {}

    def found(train: Run | None, held: Run | None) -> Leak | None:
        if train is None or held is None:
            return None
        key = (str(train.path.resolve()), str(held.path.resolve()))
        if key not in known:
            known[key] = leak(train.path, held.path)
        return known[key]

    for arm, trial in scene.each():
        base = scene.base.get(trial.outcome.seed)
        digests = {streams(t, "validation_text") for t in (trial, base) if t is not None} - {None}
        if streams(trial, "train_text") in digests:
            yield finding("trained on validation", arm, trial, "it trained on the validation text itself", invalid=True)
            continue
        own, shared = trial.parent("data"), base.parent("data") if base is not None else None
        if own is None or shared is None:
            continue
        if arm == scene.baseline:
            usual = found(own, own)
            if usual is not None and usual.more_than(None):
                text = f"the training text repeats the validation text ({usual}): values tell of remembering too, in every arm"
                yield finding("repeats", arm, None, text, invalid=False)
        elif own.fingerprint != shared.fingerprint:
            leaked = found(own, shared)
            if leaked is not None and leaked.more_than(found(shared, shared)):
                yield finding("trained on validation", arm, trial, f"its training text holds validation text: {leaked}", invalid=True)


def other_order(scene: Scene) -> Iterator[Finding]:
    """Pairs that read their data in another order with nothing in the settings to say why."""
    for arm, trial, base in scene.pairs():
        if not _differ(trial, base, "data_order") or _differ(trial, base, "train_text"):
            continue
        one, two = flat(trial.outcome.settings), flat(base.outcome.settings)
        changed = [key for key in {**one, **two} if one.get(key) != two.get(key)]
        if not any(word in key for key in changed for word in _ORDER_WORDS):
            text = f"reads its data in another order than {scene.baseline}, and nothing in the settings says why: the pair shares less"
            yield finding("data order", arm, trial, text, invalid=False)


def other_length(scene: Scene) -> Iterator[Finding]:
    """Arms that were given more to learn from."""
    if scene.timed:
        return
    for arm, trial, base in scene.pairs():
        for name in ("tokens", "steps", "train_steps"):
            one, two = (t.outcome.metrics.get(name) for t in (trial, base))
            if isinstance(one, int | float) and isinstance(two, int | float) and two > 0:
                if abs(one / two - 1) > _TOKENS_ALIKE:
                    text = f"trained on {one / two:.2f} times the {name} of {scene.baseline}: training is part of the difference"
                    yield finding("length", arm, trial, text, invalid=False)
                break
        else:
            ends = [t.outcome.points[-1].step if t.outcome.points else None for t in (trial, base)]
            if None not in ends and ends[1] and abs(ends[0] / ends[1] - 1) > _TOKENS_ALIKE:  # type: ignore[operator]
                text = (
                    f"its last value is of step {ends[0]}, that of {scene.baseline} of step {ends[1]}: training is part of the difference"
                )
                yield finding("length", arm, trial, text, invalid=False)


def other_choice(scene: Scene) -> Iterator[Finding]:
    """Weights chosen on validation text in one arm and not in the other: choosing lowers the value by itself."""
    for arm, trial, base in scene.pairs():
        ways = [flat(t.outcome.settings).get("load_best_model_at_end") for t in (trial, base)]
        if None not in ways and ways[0] != ways[1]:
            chosen = arm if ways[0] else scene.baseline
            text = f"the weights of {chosen} were chosen by validation loss on the way and the other's were not (load_best_model_at_end)"
            yield finding("choice of weights", arm, trial, text, invalid=True)


def other_machine(scene: Scene) -> Iterator[Finding]:
    """Another version of torch or another precision changes numbers a little."""
    for arm, trial, base in scene.pairs():
        if trial.run is None or base.run is None:
            continue
        one, two = trial.run.manifest, base.run.manifest
        apart = [name for name in ("torch", "transformers", "phiforge") if one.versions.get(name) != two.versions.get(name)]
        apart += [name for name in ("precision", "threads") if one.decisions.get(name) != two.decisions.get(name)]
        if apart:
            yield finding("machine", arm, trial, f"run with another {', '.join(apart)} than {scene.baseline}", invalid=False)


# -- the metric ---------------------------------------------------------------------------------------------------------


def ties(scene: Scene) -> Iterator[Finding]:
    """A metric that can't tell runs apart."""
    for arm, found in scene.table.items():
        if arm == scene.baseline:
            continue
        differences = [
            (trial.outcome.value or 0.0) - (scene.base[trial.outcome.seed].outcome.value or 0.0)
            for trial in found
            if trial.outcome.complete and trial.outcome.seed in scene.base and scene.base[trial.outcome.seed].outcome.complete
        ]
        none = sum(difference == 0 for difference in differences)
        if len(differences) > 1 and none == len(differences):
            text = f"every value equals that of {scene.baseline}: its settings changed nothing that {scene.metric} sees"
            yield finding("ties", arm, None, text, invalid=False)
        elif none:
            text = f"{none} of {len(differences)} pairs tie in {scene.metric}: they count as pairs and can't speak for either side"
            yield finding("ties", arm, None, text, invalid=False)
        elif len(differences) > 2 and max(differences) - min(differences) <= 1e-9 * max(map(abs, differences)):
            yield finding("ties", arm, None, "every pair differs by the same number, which real trainings don't do", invalid=False)
    for arm, found in scene.table.items():
        values = [trial.outcome.value for trial in found if trial.outcome.complete]
        if len(values) > 2 and len(set(values)) == 1:
            text = f"all {len(values)} seeds have one value, {values[0]:g}: were they different runs?"
            yield finding("equal values", arm, None, text, invalid=False)


def clock(scene: Scene) -> Iterator[Finding]:
    """A metric that the machine's load decides with."""
    if any(word in scene.metric.lower() for word in _CLOCK_WORDS):
        text = f"{scene.metric} is measured with a clock: it compares runs of one quiet machine, one at a time, and nothing else"
        yield finding("clock", scene.baseline, None, text, invalid=False)


def one_sided_losses(scene: Scene) -> Iterator[Finding]:
    """An arm that fails more often than the baseline: what is left of it is the lucky part."""

    def lost(found: Sequence[Trial]) -> int:
        return sum(trial.outcome.status in ("failed", "interrupted") for trial in found)

    for arm, found in scene.table.items():
        if arm != scene.baseline and lost(found) != lost(scene.table[scene.baseline]):
            other = lost(scene.table[scene.baseline])
            text = (
                f"{lost(found)} of {len(found)} trials failed, of {scene.baseline} {other}: the pairs that are left may be the lucky ones"
            )
            yield finding("failures", arm, None, text, invalid=False)


CHECKS = (
    not_counted, not_finished, wrong_seed, same_run_twice, trained_on_validation, other_validation, other_tokenizer, other_order,
    other_length, other_choice, other_machine, went_back, not_a_number, ties, clock, one_sided_losses,
)  # fmt: skip
