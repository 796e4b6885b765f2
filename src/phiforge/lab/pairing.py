"""What the two runs of a pair had in common: every random stream and input, by the digest that each run recorded of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from phiforge.lab.experiment import flat
from phiforge.lab.trials import Outcome

# stream -> (what it is, what of it differs when the digests do)
STREAMS: dict[str, str] = {
    "initialisation": "the first weights",
    "data_order": "the order of the training rows",
    "dropout": "the seed of dropout",
    "train_text": "the training text, packed",
    "validation_text": "the validation text",
    "tokenizer": "the tokenizer",
}
# stream -> words in the settings that it can depend on
_DEPENDS = {"initialisation": ("model.", "seed"), "dropout": ("dropout_seed",), "data_order": ("seed", "context", "row_offset")}
_DRAWN = ("phi_training_phases", "phase1_focus", "phase2_focus", "sampling", "sampling_replacement", "difficulty")
_ONLY_GROUPED = ("phi_batch_progression", "per_device_train_batch_size", "gradient_accumulation_steps", "batch_size")


def pairing(outcomes: Mapping[str, Sequence[Outcome]], baseline: str) -> tuple[list[str], list[str]]:
    """(shared, not shared) in words. outcomes: arm -> its trials; pairs are those of the baseline's seeds.

    A stream is shared when both runs of every pair recorded the same digest of it.
    """
    ground = {outcome.seed: outcome for outcome in outcomes.get(baseline, ()) if outcome.complete}
    pairs = {
        arm: [(outcome, ground[outcome.seed]) for outcome in found if outcome.complete and outcome.seed in ground]
        for arm, found in outcomes.items()
        if arm != baseline
    }
    pairs = {arm: found for arm, found in pairs.items() if found}
    if not pairs:
        return [], []
    shared, apart = [], []
    names = [*STREAMS, *sorted({name for found in pairs.values() for run, _ in found for name in run.streams} - set(STREAMS))]
    for name in names:
        about = f"{STREAMS[name]}" if name in STREAMS else name.replace("_", " ")
        unknown = [arm for arm, found in pairs.items() if any(name not in run.streams or name not in base.streams for run, base in found)]
        differs = [
            arm for arm, found in pairs.items() if arm not in unknown and any(run.streams[name] != b.streams[name] for run, b in found)
        ]
        if not unknown and not differs:
            shared.append(about)
        apart += [f"{about}: {arm} has its own ({_why(pairs[arm][0], name)})" for arm in differs]
        if unknown:
            apart.append(f"{about}: not recorded by {_listed(unknown, len(pairs))}")
    return shared, apart + _drawn(pairs) + _grouping(pairs)


def _listed(arms: Sequence[str], of: int) -> str:
    return "the runs" if len(arms) == of else ", ".join(arms)


def _why(pair: tuple[Outcome, Outcome], stream: str) -> str:
    """The settings that differ; those that the stream can depend on, where there are such."""
    changed = _changed(pair)
    changed = [key for key in changed if any(word in key for word in _DEPENDS.get(stream, ()))] or changed
    return f"it differs in {', '.join(changed[:4])}{', ...' if len(changed) > 4 else ''}" if changed else "with equal settings"


def _changed(pair: tuple[Outcome, Outcome]) -> list[str]:
    run, base = flat(pair[0].settings), flat(pair[1].settings)
    return [key for key in run if key in base and run[key] != base[key]]


def _drawn(pairs: Mapping[str, Sequence[tuple[Outcome, Outcome]]]) -> list[str]:
    """Arms whose phases draw rows by difficulty: their uniform order is the baseline's, the rows that they see are not."""
    told = []
    for arm, found in pairs.items():
        keys = [key for key in _changed(found[0]) if key.rpartition(".")[2] in _DRAWN]
        phases = flat(found[0][0].settings).get("phi.phi_training_phases") or flat(found[0][1].settings).get("phi.phi_training_phases")
        if keys and phases:
            told.append(f"the rows themselves: {arm} draws by difficulty where its focus is exploitation ({', '.join(keys)})")
    return told


def _grouping(pairs: Mapping[str, Sequence[tuple[Outcome, Outcome]]]) -> list[str]:
    """Arms that read the same rows in batches of other sizes: the masks of dropout then fall on other rows."""
    told = []
    for arm, found in pairs.items():
        keys = [key for key in _changed(found[0]) if key.rpartition(".")[2] in _ONLY_GROUPED]
        if keys and not _differs(found[0], "data_order"):
            told.append(
                f"the grouping of rows into steps: {arm} reads the same rows in the same order in batches of other sizes ({keys[0]}),"
                " so step for step it sees other rows, and a dropout stream of the same seed falls on other rows"
            )
    return told


def _differs(pair: tuple[Outcome, Outcome], stream: str) -> bool:
    one: Any = pair[0].streams.get(stream)
    return one is None or one != pair[1].streams.get(stream)
