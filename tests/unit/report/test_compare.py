"""The report of a comparison: whole, partial, hostile; and the arithmetic of its curves."""

from __future__ import annotations

import doctest
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from phiforge.core.errors import RunError
from phiforge.report import blocks, compare, strips, verdicts
from phiforge.report.compare_costs import cost_table, spikes
from phiforge.report.experiment import Curve, Trial, read_experiment
from phiforge.report.svg import COLOURS, DASHES, look
from phiforge.report.trajectory import at_equal, average, difference, interval, points
from phiforge.stats import spikes as stats_spikes
from tests.unit.report.experiments import Made, make_experiment
from tests.unit.report.test_run_report import Page

CASES = {
    "whole": Made(),
    "twelve arms": Made(arms=12, seeds=4, control=False),
    "one arm": Made(arms=1, control=False),
    "no arm": Made(arms=0),
    "too few seeds": Made(seeds=3),
    "one seed": Made(seeds=1, fail=False),
    "no trial complete": Made(complete=False),
    "no run folders, no curves": Made(folders=False, curves=False),
    "curves from the runs": Made(curves=False, arms=2),
    "hostile": Made(arms=5, seeds=6, hostile=True),
}
ALWAYS = ["Verdicts", "Predicted and measured", "What a pair shares", "How to make it again"]


@pytest.mark.parametrize("name", CASES)
def test_every_state_of_an_experiment_makes_a_page(name, tmp_path):
    made = make_experiment(tmp_path / "x", CASES[name])
    page = compare.render_comparison(made)
    text = page.read_text(encoding="utf-8")
    parsed = Page(text)
    assert page == made / "report.html" and (made / "report.md").is_file()
    assert "script" not in parsed.tags and "img" not in parsed.tags and parsed.loads == ["data:,"]
    assert len(set(parsed.ids)) == len(parsed.ids) and set(parsed.refs) <= set(parsed.ids)
    assert not re.search("[\x00-\x08\x0b-\x1f]", text)
    assert [title for title in ALWAYS if f"<h2>{title}</h2>" not in text] == []
    assert len(text) < 450_000


def test_the_verdicts_come_first_and_say_what_verdict_json_says(tmp_path):
    made = make_experiment(tmp_path / "x")
    text = compare.comparison_page(made)
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    assert titles == [
        "To know first",
        "Verdicts",
        "Predicted and measured",
        "Pair by pair",
        "Curves",
        "Schedules",
        "Time, memory, and how quietly it went",
        "Tuning",
        "Controls",
        "Noise floor",
        "In their own words",
        "Trials that did not count",
        "What a pair shares",
        "What would change the verdict",
        "Other tests",
        "How to make it again",
    ]
    table = text[text.index("<h2>Verdicts") : text.index("<h2>Predicted")]
    data = json.loads((made / "verdict.json").read_text())
    rows = re.findall(r"<tr>(.*?)</tr>", table)[1:]
    for row, found in zip(rows, [c for c in data["comparisons"] if c["role"] == "arm"], strict=True):
        cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)]
        assert cells[:2] == [found["arm"], found["verdict"]]
        assert float(cells[2].replace("−", "-")) == pytest.approx(found["mean"], abs=6e-5)
        assert [float(c) for c in cells[4:7]] == pytest.approx([found["p"], found["p_holm"], found["n"]], rel=5e-3)
        assert cells[9] == ("–" if found["seeds_needed"] is None else f"{found['seeds_needed']:,}")
    assert "phiforge compare phi/tiny --out &#x27;runs/phi tiny&#x27;" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "Better than standard in eval bits per byte (lower is better): rate −0.0"),
        ({"verdict": "worse"}, "Worse than standard in eval bits per byte (lower is better): rate"),
        ({"verdict": "no detectable difference"}, "No detectable difference from standard: rate; a true difference below about 0.0"),
        (
            {"verdict": "too few seeds to say", "n": 3},
            "Too few seeds to say: rate (3 pairs); at least 6 pairs are needed to decide a comparison.",
        ),
        ({"verdict": None}, "No verdict was recorded."),
    ],
)
def test_the_headline_follows_the_verdict(change, said, tmp_path):
    made = make_experiment(tmp_path / "x", Made(arms=1, control=False))
    data = json.loads((made / "verdict.json").read_text())
    assert data["comparisons"][0]["verdict"] == "better"
    data["comparisons"][0].update(change)
    (made / "verdict.json").write_text(json.dumps(data))
    assert verdicts.headline(read_experiment(made)).startswith(said)
    assert said.split(":")[0] in compare.comparison_markdown(made)


def test_lost_trials_are_named_with_their_reason(tmp_path):
    text = compare.comparison_page(make_experiment(tmp_path / "x"))
    lost = text[text.index("Trials that did not count</h2>") : text.index("What a pair shares")]
    assert "the loss was not finite at step 412" in lost and "read its rows in another order" in lost
    assert lost.count("<tr>") == 3 and "2 trials did not count" in text
    none = compare.comparison_page(make_experiment(tmp_path / "none", Made(complete=False, seeds=4)))
    assert "0, 1, 2, 3" in none and "Too few seeds to say" in none


def test_a_gone_run_costs_its_curves_only(tmp_path):
    import shutil

    made = make_experiment(tmp_path / "x", Made(arms=2, curves=False))
    whole = compare.comparison_page(made)
    shutil.rmtree(made / "trials" / "arm-1")
    without = compare.comparison_page(made)
    assert "<h2>Schedules" in whole and "<h2>Schedules" in without
    rows = [re.sub("<.*?>", "|", text[text.index("<h2>Verdicts") : text.index("<h2>Predicted")]) for text in (whole, without)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "junk",
    [
        {},
        {"arms": None, "comparisons": "x", "metric": [], "curves": 3, "noise": "n", "seeds": {}, "failures": [1], "budget": []},
        {"arms": [{}, {"name": 1, "trials": [{"path": "a\x00b"}, {"path": "x" * 5000}, 7], "tuning": [{}], "settings": 3}]},
        {"comparisons": [{}, {"arm": "a", "pairs": [1, {"difference": "x"}], "interval": [None, 1], "mean": "much", "n": None}]},
        {"curves": {"a": [{"points": [[1], [1, None, 2.0], "x"]}]}, "arms": [{"name": "a"}]},
    ],
)
def test_junk_is_left_out(junk, tmp_path):
    (tmp_path / "verdict.json").write_text(json.dumps(junk))
    Page(compare.render_comparison(tmp_path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": 99}', "[" * 100_000])
def test_what_is_no_verdict_is_one_line(text, tmp_path):
    (tmp_path / "verdict.json").write_text(text)
    with pytest.raises(RunError) as caught:
        compare.render_comparison(tmp_path)
    assert "\n" not in str(caught.value) and "verdict.json" in str(caught.value)
    with pytest.raises(RunError, match="holds no"):
        compare.render_comparison(tmp_path / "..")
    with pytest.raises(RunError, match="does not exist"):
        compare.render_comparison(tmp_path / "none")


def test_the_same_folder_draws_the_same_page(tmp_path):
    made = make_experiment(tmp_path / "x", Made(arms=2))
    first = compare.comparison_page(made)
    time.sleep(0.01)
    assert compare.comparison_page(made) == first


def test_markdown_cannot_be_broken_out_of(tmp_path):
    text = compare.comparison_markdown(make_experiment(tmp_path / "x", Made(arms=3, hostile=True)))
    unescaped = re.sub(r"\\.", "", "\n".join(line for line in text.splitlines() if not line.startswith("    phiforge")))
    assert "<" not in unescaped and not re.search("[\x00-\x09\x0b-\x1f]", text)
    for rows in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        assert len({re.sub(r"\\.", "", row).count("|") for row in rows.splitlines()}) == 1


def test_printed_examples_hold():
    for module in (verdicts, strips, blocks, stats_spikes):
        result = doctest.testmod(module)
        assert result.attempted and not result.failed


def test_thirty_arms_are_told_apart():
    looks = [look(i) for i in range(1, 4 * COLOURS // 2 * 2 + 1)]
    assert len(set(looks)) == 2 * COLOURS and look(0)[0] == "var(--fg)" and len(DASHES) == 4


def curve(seed, xs, ys, speed=1.0):
    return Curve(seed, [float(x) for x in xs], [x / speed for x in xs], list(ys))


def arm_of(*curves):
    from phiforge.report.experiment import Arm

    return Arm("a", "arm", "", "", {}, {}, [], [], curves=list(curves))


def test_mean_and_interval_are_students():
    from scipy.stats import t

    rows = np.random.default_rng(0).normal(size=(7, 3))
    low, high = interval(rows)
    for i in range(3):
        expected = t.interval(0.95, 6, loc=rows[:, i].mean(), scale=rows[:, i].std(ddof=1) / np.sqrt(7))
        assert (low[i], high[i]) == pytest.approx(expected)
    assert interval(rows[:1]) == (None, None)
    made = average([curve(s, [0, 10, 20], rows[s]) for s in range(7)], "tokens")
    assert made.x.tolist() == [0, 10, 20] and made.mean == pytest.approx(rows.mean(0)) and made.n == 7


def test_curves_are_held_against_each_other_where_both_have_been():
    """The arm is twice as slow: at equal seconds it is compared half way."""
    fast = arm_of(*(curve(s, [0, 50, 100], [3 + s, 2 + s, 1 + s]) for s in range(3)))
    slow = arm_of(*(curve(s, [0, 50, 100], [3 + s, 1.5 + s, 0.5 + s], speed=0.5) for s in (0, 1, 7)))
    tokens, seconds = at_equal(slow, fast, "tokens"), at_equal(slow, fast, "seconds")
    assert (tokens.n, tokens.place, tokens.mean) == (2, 100, pytest.approx(-0.5))
    assert (seconds.n, seconds.place, seconds.mean) == (2, 100, pytest.approx(1.5 - 1.0))
    assert difference(slow, fast, "tokens").mean[-1] == pytest.approx(-0.5)
    apart = arm_of(curve(0, [200, 300], [1, 1]))
    assert at_equal(apart, fast, "tokens") is None and difference(apart, fast, "tokens") is None
    assert points(Curve(0, [None, None], [1.0, 2.0], [1.0, 2.0]), "tokens") is None
    x, y = points(Curve(0, [5.0, 1.0, 5.0], [], [2.0, 1.0, 9.0]), "tokens")
    assert x.tolist() == [1, 5] and y[0] == 1


def test_an_arm_that_never_met_the_baseline_is_named(tmp_path):
    made = make_experiment(tmp_path / "x", Made(arms=2, control=False))
    data = json.loads((made / "verdict.json").read_text())
    for line in data["curves"]["batch"]:
        line["points"] = [[tokens, seconds + 10_000, value] for tokens, seconds, value in line["points"]]
    (made / "verdict.json").write_text(json.dumps(data))
    text = compare.comparison_page(made)
    assert text.count("in common with the baseline: batch.") == 1 and "stretch of seconds in common" in text


def test_costs_are_means_over_the_trials_that_count(tmp_path):
    x = read_experiment(make_experiment(tmp_path / "x"))
    columns, rows = cost_table(x)
    by_arm = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    values = [trial.value for trial in x.arm("batch").trials if trial.status == "complete"]
    assert len(values) == 9
    assert by_arm["batch"]["eval bits per byte"] == f"{np.mean(values):.4f}"
    assert by_arm["batch"]["spread over seeds"] == f"{np.std(values, ddof=1):.2g}"
    assert by_arm["batch"]["peak memory"] == "700 MB" and by_arm["batch"]["CPU time"] == "5 min 10 s"
    assert (by_arm["batch"]["loss spikes"], by_arm["batch"]["rollbacks"], by_arm["rate"]["rollbacks"]) == ("1", "1", "0")
    bare = cost_table(read_experiment(make_experiment(tmp_path / "y", Made(complete=False, folders=False))))[0]
    assert bare == ["arm"]


def test_spikes_are_counted_from_the_losses():
    quiet = [{"loss": 3 - 0.01 * i + 0.001 * (-1) ** i} for i in range(80)]
    trial = Trial(0, "complete", 1.0, {}, "", None, None, None)
    trial.__dict__["lines"] = quiet
    assert spikes(trial) == 0
    trial.__dict__["lines"] = [*quiet[:50], {"loss": 4.0}, *quiet[50:], {"loss": float("nan")}]
    assert spikes(trial) == 2
    trial.__dict__["lines"] = []
    assert spikes(trial) is None


def test_the_plot_of_pairs_puts_values_in_their_places():
    from phiforge.report.html import Markup

    row = strips.Strip(Markup("a"), Markup("b"), [("1", -1.0), ("2", 3.0)], mean=1.0, interval=(0.0, 2.0))
    text = str(strips.strips([row], band=0.5))
    assert re.findall(r'<circle cx="([\d.]+)%"', text) == ["3.00", "97.00", "50.00"]
    assert '<line x1="26.50%" x2="73.50%"' in text and '<rect x="14.75%"' in text
    assert strips.strips([]) == "" and strips.ticks_of(-1.0, 1.0) == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_the_verb_draws_anew_and_says_where(tmp_path, capsys):
    from phiforge.cli.main import _guarded

    made = make_experiment(tmp_path / "x", Made(arms=1, control=False, seeds=6))
    assert _guarded(["report", str(made), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert Path(said["path"]) == made / "report.html" and said["kind"] == "comparison" and said["headline"]
    assert _guarded(["report", str(made), "--markdown"]) == 0
    assert capsys.readouterr().out == (made / "report.md").read_text()
    assert _guarded(["report", str(made), "--out", str(tmp_path / "elsewhere.html")]) == 0
    assert (tmp_path / "elsewhere.html").read_text() == (made / "report.html").read_text()
    for words in ([str(tmp_path / "none")], [str(tmp_path)], [str(made), "--out", str(tmp_path)], [str(made), "--markdown", "--json"]):
        capsys.readouterr()
        assert _guarded(["report", *words]) == 2
        out = capsys.readouterr()
        assert out.out == "" and out.err.count("\n") == 1 and "error:" in out.err


def test_the_verb_draws_a_run(make_run, capsys):
    from phiforge.cli.main import _guarded

    run = make_run(steps=30)
    assert _guarded(["report", str(run)]) == 0 and (run / "report.html").is_file()
    assert _guarded(["report", str(run), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("# demo")
    assert _guarded(["report", str(run.parent)]) == 2
    assert "it holds" in capsys.readouterr().err
