"""The parts of a comparison's page that need no curves. Each takes the experiment and gives HTML, or nothing where there is nothing."""

from __future__ import annotations

from typing import Any

from phiforge.report.experiment import Arm, Experiment
from phiforge.report.format import duration, number, some, when, words
from phiforge.report.html import Markup, badge, card, details, facts, join, tag
from phiforge.report.html import table as plain_table
from phiforge.report.nested import plain
from phiforge.report.read import number_of
from phiforge.report.strips import Strip, strips
from phiforge.report.svg import look
from phiforge.report.verdicts import (
    BADGES,
    BETTER,
    WORSE,
    between,
    conclusion,
    count_of,
    decimals,
    headline,
    interval_of,
    places,
    probability,
    seeds_needed,
    short,
    signed,
    what_would_change,
)

_SHORT = 24  # characters of a cell that are kept on one line
_MOST_PAIRS = 60  # rows of the table of pairs, for each arm


def marked(arm: Arm | None, name: Any) -> Markup:
    """An arm's name with its colour before it."""
    colour = look(arm.look)[0] if arm else "var(--muted)"
    made = join([Markup(f'<span class="mark" style="background:{colour}"></span>'), short(name)])
    return tag("span", made, klass="w") if len(str(name)) <= _SHORT else made


def labelled(columns: list[str], rows: list[list[Any]], *, stack: bool = False) -> Markup:
    """A table whose first column stays in sight when it is scrolled sideways. `stack`: on a phone one block a row instead, each value
    with its column's name beside it: for few rows of many columns."""
    if not rows:
        return Markup("")

    def cell(i: int, value: Any) -> Markup:
        shown = value if isinstance(value, str) else number(value)
        plain_short = not isinstance(value, Markup) and len(shown) <= _SHORT
        return tag("td", shown, **({"klass": "w"} if plain_short else {}), **{"data-label": columns[i]})

    head = tag("thead", tag("tr", join(tag("th", name) for name in columns)))
    body = tag("tbody", join(tag("tr", join(cell(i, value) for i, value in enumerate(row))) for row in rows))
    return tag("div", tag("table", join([head, body]), klass="v stack" if stack else "v keep"), klass="scroll", tabindex="0")


def head(x: Experiment) -> Markup:
    """Name, what it rests on, and the sentence."""
    lost = sum(not trial.complete for _, trial in x.trials())
    seeds = x.data.get("seeds")
    labels = [badge(f"decided by {words(x.metric)}")]
    labels += [badge(some(len(seeds), "seed"))] if isinstance(seeds, list) and seeds else []
    labels += [badge(some(len(x.arms), "arm"))] if x.arms else []
    labels += [badge(when(x.data["made"]))] if x.data.get("made") else []
    labels += [badge(f"{some(lost, 'trial')} did not count", "warn")] if lost else []
    parts = [
        tag("p", "phiforge · comparison", klass="eyebrow"),
        tag("h1", short(x.name, 120)),
        tag("div", join(labels), klass="badges"),
        tag("p", headline(x), klass="lead"),
        tag("p", x.text("description"), klass="note") if x.text("description") else "",
    ]
    return tag("header", join(parts))


def _rows(x: Experiment, comparisons: list[dict[str, Any]], digits: int, *, against: bool) -> list[list[Any]]:
    rows = []
    for c in comparisons:
        arm, least = x.arm(c.get("arm")), number_of(c.get("minimum_detectable"))
        verdict = str(c.get("verdict") or "none")
        row: list[Any] = [marked(arm, c.get("arm"))]
        row += [short(c.get("against") or x.baseline)] if against else []
        row += [badge(verdict, BADGES.get(verdict, ""))]
        row += [signed(number_of(c.get("mean")), digits), between(c, digits), probability(c.get("p")), probability(c.get("p_holm"))]
        row += [str(count_of(c)), signed(number_of(c.get("effect_size")), 2)]
        row += ["–" if least is None else f"{least:.{max(digits, decimals([least]))}f}", seeds_needed(c)]
        rows.append(row)
    return rows


def _columns(x: Experiment, *, against: bool) -> list[str]:
    first = ["arm", "against"] if against else ["arm"]
    tail = ["difference", "95 % interval", "p", "p after Holm", "pairs", "effect size", "detectable from", "seeds needed"]
    return [*first, "verdict", *tail]


def verdicts(x: Experiment) -> Markup:
    """The table that everything else explains."""
    digits = places(x.family)
    direction = "below" if x.lower_is_better else "above"
    notes = [
        f"Difference: the arm's {words(x.metric)} minus that of {short(x.baseline) or 'the baseline'}, pair by pair over seeds;"
        f" {direction} zero is better.",
        f"Decided by: {x.text('decided_by')}." if x.text("decided_by") else "",
        "Effect size: mean difference in standard deviations of the differences. Detectable from: a true difference of this size is found"
        " 8 times in 10. Seeds needed: pairs that would decide a difference of the size measured.",
    ]
    until = (
        tag("p", "Seeds were added until it was clear: the sequential test alone decides.", klass="note")
        if x.data.get("until_clear")
        else ""
    )
    below = join(tag("p", note, klass="note") for note in notes if note)
    table = labelled(_columns(x, against=False), _rows(x, x.family, digits, against=False), stack=True)
    return card("Verdicts", table or tag("p", "No arm was compared."), tag("div", join([until, below]), klass="after"))


def warnings(x: Experiment) -> Markup:
    """What a reader must know before believing the table."""
    found = x.words("warnings")
    return card("To know first", *(tag("p", text) for text in found[:40]), klass="heed") if found else Markup("")


def prediction(x: Experiment) -> Markup:
    """What was asked and predicted, beside what came out."""
    asked, said = x.text("question"), x.text("prediction")
    if not asked and not said:
        return Markup("")
    digits = places(x.family)
    outcome = [(short(c.get("arm")), conclusion(x, c, digits)) for c in x.family]
    left = tag("div", join([tag("h3", "Predicted before the first run"), tag("p", said or "nothing was predicted")]))
    right = tag("div", join([tag("h3", "Came out"), facts(outcome) if outcome else tag("p", "nothing yet")]))
    question = tag("p", join([tag("b", "The question: "), asked])) if asked else ""
    return card("Predicted and measured", question, tag("div", join([left, right]), klass="grid"))


def differences(x: Experiment) -> Markup:
    """One dot a seed."""
    digits = places(x.comparisons)
    rows = [_strip(x, c, digits) for c in [*x.family, *x.controls] if c.get("pairs")]
    noise, band, said = x.part("noise"), None, ""
    same, over = number_of(noise.get("same_config_sd")), number_of(noise.get("sd_over_seeds"))
    if same:
        band, said = same, "Grey: one standard deviation of runs of the same settings, to either side of zero."
    elif over:
        band, said = over, "Grey: one standard deviation over the baseline's seeds, to either side of zero."
    sides = ("better", "worse") if x.lower_is_better else ("worse", "better")
    note = f"A dot is one seed: arm minus baseline in {words(x.metric)}. Above the dots their mean and its 95 % interval. {said}"
    pairs = details("every pair, in numbers", join(_pairs(x, c) for c in [*x.family, *x.controls] if c.get("pairs")))
    return card("Pair by pair", strips(rows, band=band, low=sides[0], high=sides[1]), pairs, note=note) if rows else Markup("")


def _strip(x: Experiment, c: dict[str, Any], digits: int) -> Strip:
    arm, verdict = x.arm(c.get("arm")), c.get("verdict")
    dots = [(str(p.get("seed")), d) for p in c["pairs"] if isinstance(p, dict) and (d := number_of(p.get("difference"))) is not None]
    against = str(c.get("against") or x.baseline)
    tail = f" against {short(against, 30)}" if against != x.baseline else ""
    tail += " (control)" if c.get("role") == "control" else ""
    label = join([marked(arm, c.get("arm")), tag("span", tail, klass="tag") if tail else ""])
    mean = number_of(c.get("mean"))
    value = join([tag("b", signed(mean, digits)), f" ({between(c, digits)})" if interval_of(c) else ""]) if mean is not None else Markup("")
    kind = {BETTER: "good", WORSE: "bad"}.get(str(verdict), "fg")
    return Strip(label, value, dots, mean, interval_of(c), kind, arm.look if arm else 0)


def _pairs(x: Experiment, c: dict[str, Any]) -> Markup:
    digits = max(4, places([c]))
    pairs = [p for p in c["pairs"] if isinstance(p, dict)]
    rows = [
        [str(p.get("seed")), *(_fixed(p.get(k), digits) for k in ("value", "baseline")), signed(number_of(p.get("difference")), digits)]
        for p in pairs[:_MOST_PAIRS]
    ]
    more = tag("p", f"and {len(pairs) - _MOST_PAIRS:,} more", klass="note") if len(pairs) > _MOST_PAIRS else ""
    title = tag("h3", marked(x.arm(c.get("arm")), c.get("arm")))
    against = short(c.get("against") or x.baseline, 30)
    return join([title, plain_table(["seed", "arm", against or "baseline", "difference"], rows), more])


def _fixed(value: Any, digits: int) -> str:
    found = number_of(value)
    return "–" if found is None else f"{found:.{digits}f}"


def controls(x: Experiment) -> Markup:
    """Arms that were added to make the comparison fair."""
    digits = places(x.controls or x.family)
    about = [(short(a.name), a.about or f"control of {short(a.control_of)}") for a in x.arms if a.role == "control"]
    table = labelled(_columns(x, against=True), _rows(x, x.controls, digits, against=True), stack=True)
    note = "Shown beside the family: a control decides nothing, it says what a difference is owed to."
    return card("Controls", facts(about), table, note=note) if about or table else Markup("")


def noise(x: Experiment) -> Markup:
    """How far apart runs are when nothing is changed."""
    found = x.part("noise")
    pairs = [
        ("over seeds, same settings (standard deviation)", number_of(found.get("sd_over_seeds"))),
        ("between two runs that differ in nothing that is compared", number_of(found.get("same_config_sd"))),
    ]
    shown = [(name, number(value)) for name, value in pairs if value is not None]
    how = tag("p", str(found["how"])) if found.get("how") else ""
    return card("Noise floor", facts(shown), how, note=f"In {words(x.metric)}.") if shown else Markup("")


def tuning(x: Experiment) -> Markup:
    """What was tried before, for each arm alike."""
    rows = []
    for arm in x.arms:
        for nth, tried in enumerate(arm.tuning):
            settings = tried.get("settings")
            values = [v for v in (number_of(v) for v in tried.get("values") or []) if v is not None]
            chosen = badge("chosen", "good") if arm.tuned and settings == arm.tuned else Markup("")
            said = _settings(settings if isinstance(settings, dict) else {})
            rows.append(
                [
                    "" if nth else marked(arm, arm.name),
                    said,
                    number(number_of(tried.get("mean"))),
                    ", ".join(number(v) for v in values[:8]),
                    chosen,
                ]
            )
    note = "Each arm at its best: settings were chosen on other seeds than those that decide."
    return card("Tuning", labelled(["arm", "tried", f"mean {words(x.metric)}", "values", ""], rows), note=note) if rows else Markup("")


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={plain(value)}" for name, value in settings.items()) or "as the recipe has it"


def failures(x: Experiment) -> Markup:
    """Every trial that doesn't count, by name, and why."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for arm, trial in x.trials():
        if not trial.complete:
            groups.setdefault((arm.name, trial.status, trial.error), []).append(str(trial.seed))
    known = {(name, seed) for (name, _, _), seeds in groups.items() for seed in seeds}
    for f in x.data.get("failures") or []:
        if isinstance(f, dict) and (str(f.get("arm")), str(f.get("seed"))) not in known:
            groups.setdefault((str(f.get("arm")), "failed", str(f.get("error") or "")), []).append(str(f.get("seed")))
    rows = [
        [marked(x.arm(name), name), ", ".join(seeds), badge(status, "bad" if status in ("failed", "invalid") else "warn"), error]
        for (name, status, error), seeds in groups.items()
    ]
    table = labelled(["arm", "seed", "status", "why"], rows[:200], stack=True)
    more = tag("p", f"and {len(rows) - 200:,} more", klass="note") if len(rows) > 200 else ""
    note = "A trial without a value takes its pair out of the comparison; the other pairs stand."
    return card("Trials that did not count", table, more, note=note) if rows else Markup("")


def streams(x: Experiment) -> Markup:
    """What the two runs of a pair have in common."""
    shared, alone = x.words("shared"), x.words("not_shared")
    if not shared and not alone:
        return Markup("")

    def part(title: str, items: list[str]) -> Markup:
        inside = tag("ul", join(tag("li", item) for item in items)) if items else tag("p", "nothing")
        return tag("div", join([tag("h3", title), inside]))

    return card("What a pair shares", tag("div", join([part("Shared", shared), part("Not shared", alone)]), klass="grid"))


def outlook(x: Experiment) -> Markup:
    """What would change each verdict."""
    digits = places(x.family)
    return card("What would change the verdict", facts((short(c.get("arm")), what_would_change(x, c, digits)) for c in x.family))


def other_tests(x: Experiment) -> Markup:
    """Shown, and without a vote."""
    digits = places(x.comparisons)
    sequential = any(number_of(c.get("e_value")) is not None for c in x.comparisons)
    columns = [
        "arm",
        "paired t",
        "Wilcoxon",
        "bootstrap interval",
        *(["e-value"] if sequential else []),
        "items (only arm / only baseline right)",
        "notes",
    ]
    rows = []
    for c in [*x.family, *x.controls]:
        items = c.get("items")
        said = "–"
        if isinstance(items, dict):
            said = f"{number(items.get('n01'))} / {number(items.get('n10'))}, McNemar p {probability(items.get('p'))}"
        notes = c.get("notes")
        row: list[Any] = [marked(x.arm(c.get("arm")), c.get("arm")), probability(c.get("t_p")), probability(c.get("wilcoxon_p"))]
        row += [between(c, digits, "bootstrap"), *([number(number_of(c.get("e_value")))] if sequential else [])]
        rows.append([*row, said, "; ".join(str(n) for n in notes) if isinstance(notes, list) else ""])
    drop = [i for i in (len(columns) - 2, len(columns) - 1) if all(row[i] in ("–", "") for row in rows)]
    columns = [name for i, name in enumerate(columns) if i not in drop]
    rows = [[value for i, value in enumerate(row) if i not in drop] for row in rows]
    return (
        card("Other tests", labelled(columns, rows), note="Shown, and they don't decide: the test was named before.")
        if rows
        else Markup("")
    )


def again(x: Experiment) -> Markup:
    """The command, and every arm's settings."""
    command = tag("pre", "phiforge " + " ".join(quoted(word) for word in x.command)) if x.command else ""
    budget = x.part("budget")
    tokens, seconds = number_of(budget.get("tokens")), number_of(budget.get("seconds"))
    basics = [("recipe", x.text("recipe")), ("step", x.text("step"))]
    basics += [("tokens in a run", number(int(tokens)))] if tokens else []
    basics += [("time for a run", duration(seconds))] if seconds else []
    seeds = x.data.get("seeds")
    basics += [("seeds", ", ".join(str(seed) for seed in seeds[:50]))] if isinstance(seeds, list) and seeds else []
    alpha = number_of(x.data.get("alpha"))
    basics += [("alpha", number(alpha))] if alpha is not None else []
    arms = [
        join([tag("h3", marked(arm, arm.name)), tag("p", arm.about, klass="note") if arm.about else "", _arm_facts(arm)]) for arm in x.arms
    ]
    return card("How to make it again", command, facts([(n, v) for n, v in basics if v]), details("settings of every arm", *arms))


def _arm_facts(arm: Arm) -> Markup:
    tuned = {f"{name} (tuned)": value for name, value in arm.tuned.items()}
    return facts((name, plain(value)) for name, value in {**arm.settings, **tuned}.items()) or tag("p", "as the recipe has it")


def quoted(word: str) -> str:
    """As a shell takes it."""
    import shlex

    return shlex.quote(word)
