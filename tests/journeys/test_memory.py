"""A person asks where 2,304 bytes suffice: `phiforge run thyme/memory data=FOLDER`, then opens the one report."""

from __future__ import annotations

import html
import json
import random
import re
from pathlib import Path

import pytest

from phiforge.cli.main import _guarded
from tests.journeys.test_report_html import browse, needs_browser

SMALL = """
thyme.width=16 thyme.depth=1 thyme.max_steps=4 thyme.max_tokens=null attention.width=16 attention.depth=1 attention.heads=1
attention.mlp_width=300 attention.max_steps=4 attention.max_tokens=null tokenizer.vocab_size=300 validation_fraction=0.3
recall.max_steps=3 recall.seeds=2 recall.sizes=[1,2] recall.keys=4 recall.values=4 recall.tokens_per_step=32 recall.test_answers=16
recall.model.width=24 recall.attention.width=24 memory.position_length=700 memory.needle_instances=4 memory.needle_distance=512
memory.forget=64
""".split()
COMMON = ["threads=1", "precision=fp32", "loss=stock", "context_length=64", "sample_prompts=[]", "eval_tokens=256", "final_eval_tokens=512"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    """The folder of the whole recipe, run on made-up text."""
    texts = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    words = ["".join(draw.choice("abcdefghiklmnoprstu") for _ in range(draw.randint(2, 8))) for _ in range(300)]
    for number in range(8):
        sentences = [" ".join(draw.choice(words) for _ in range(9)).capitalize() + "." for _ in range(120)]
        (texts / f"{number}.txt").write_text(" ".join(sentences), encoding="utf-8")
    out = tmp_path_factory.mktemp("runs") / "memory"
    keys = SMALL + [f"{step}.{key}" for step in ("thyme", "attention") for key in COMMON]
    assert _guarded(["run", "thyme/memory", f"data={texts}", *keys, "--out", str(out)]) == 0
    return out


def test_one_report_has_all_of_it(asked):
    found = json.loads((asked / "memory" / "memory.json").read_text(encoding="utf-8"))
    thyme, attention = found["models"]
    assert (thyme["state_bytes"], thyme["context_length"]) == (2304, None)
    assert attention["context_length"] == 256 and attention["state_bytes"] == 256 * 2 * 16 * 4
    carried, windowed = (model["bins"] for model in found["positions"]["models"])
    assert carried[-1]["last"] == windowed[-1]["last"] == 699
    assert {place["how"] for place in carried} == {"whole"} and windowed[-1]["how"] == "sliding"
    assert all(place["gain"]["value"] == pytest.approx(0, abs=1e-5) for place in carried if place["last"] < 64)
    everywhere, near = (model["distances"] for model in found["needles"]["models"])
    assert [one["distance"] for one in everywhere] == [16, 32, 64, 128, 256, 512] and all(one["asked"] for one in everywhere)
    assert [one["asked"] for one in near] == [one["distance"] < 200 for one in near]
    assert found["recall"]["state_bits"] == 18_432 and len(found["recall"]["kinds"]) == 2
    page = (asked / "memory" / "report.html").read_text(encoding="utf-8")
    for title in ("Where it suffices", "Made-up tasks", "The models", "Long texts", "Needles"):
        assert f"<h2>{title}" in page
    assert page.count("<svg") >= 8 and "not possible" in page


def test_finished_models_are_asked_again_without_training(asked, tmp_path):
    """`thyme=RUN attention=RUN recall=RUN data=RUN` in place of the steps: only the questions are new."""
    given = [f"{step}={asked / step}" for step in ("data", "tokenizer", "thyme", "attention", "recall")]
    asking = ["memory.needles=false", "memory.position_length=100", "memory.forget=64"]
    assert _guarded(["run", "thyme/memory", *given, *asking, "--out", str(tmp_path / "again")]) == 0
    assert [item.name for item in (tmp_path / "again").iterdir() if item.is_dir()] == ["memory"]
    found = json.loads((tmp_path / "again" / "memory" / "memory.json").read_text(encoding="utf-8"))
    assert "needles" not in found and found["positions"]["models"][0]["bins"][-1]["last"] == 99


def test_what_cannot_be_is_one_line(asked, tmp_path, capfd):
    given = [f"{step}={asked / step}" for step in ("data", "tokenizer", "thyme", "attention")]
    for wrong, said in (
        (["memory.positions=false", "memory.needles=false", f"recall={asked / 'recall'}"], "nothing would be measured"),
        ([f"recall={asked / 'thyme'}"], "is a pretrain run, which can't be the recall"),
    ):
        assert _guarded(["run", "thyme/memory", *given, *wrong, "--out", str(tmp_path / "no")]) == 2
        lines = capfd.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and said in lines[0]


@needs_browser
def test_the_report_opens_offline_at_any_width(asked, tmp_path):
    report = asked / "memory" / "report.html"
    blank = tmp_path / "blank.html"
    blank.write_text("<!doctype html><title>x</title>")
    _, own, _ = browse(blank, tmp_path)  # what the browser asks for by itself
    document, hosts, messages = browse(report, tmp_path)
    assert hosts <= own and messages == "" and "<script" not in document
    inner = html.escape(report.read_text(encoding="utf-8").replace("<details>", "<details open>"))
    frames = "".join(f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{inner}"></iframe>' for width in (400, 1400))
    measure = "document.title = 'width ' + Array.from(frames, f => f.document.documentElement.scrollWidth).join(' ')"
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="margin:0" onload="{html.escape(measure)}">{frames}', encoding="utf-8"
    )
    seen, _, _ = browse(outer, tmp_path, width=1900)
    assert re.search(r"<title>width (\d+ \d+)</title>", seen)[1] == "400 1400"
