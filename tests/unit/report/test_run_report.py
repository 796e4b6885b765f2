"""report.html of whole, partial, damaged and hostile runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from phiforge.core.errors import RunError
from phiforge.report.headline import headline
from phiforge.report.markdown import run_markdown
from phiforge.report.read import count_tensors, read_run
from phiforge.report.run import render_run

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Holds a page to well-formed tags, and collects what it would load, run or point at."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.refs: list[str] = []
        self.text = ""
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(name)
        given = dict(attributes)
        assert len(given) == len(attributes), f"an attribute twice in <{name}>"
        assert not any(key.startswith("on") for key in given), f"a handler in <{name}>"
        self.ids += [given["id"]] if given.get("id") else []
        for key in ("src", "href", "action", "data", "srcset", "poster"):
            value = given.get(key) or ""
            if value.startswith("#"):
                self.refs.append(value[1:])
            elif value:
                self.loads.append(value)
        for value in given.values():
            self.refs += re.findall(r"url\(#([^)]+)\)", value or "")
            assert "url(" not in re.sub(r"url\(#[^)]+\)", "", value or "")
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(name, attributes)
        if name not in VOID:
            self.open.pop()

    def handle_endtag(self, name: str) -> None:
        assert self.open and self.open.pop() == name, f"</{name}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def page_of(path) -> Page:
    page = Page(render_run(path).read_text(encoding="utf-8"))
    assert page.open == [] and not page.tags & {"script", "iframe", "object", "embed", "base", "form"}
    assert all(load == "data:," or load.startswith(("../", "./")) for load in page.loads), page.loads
    assert len(page.ids) == len(set(page.ids)), "the same id twice"
    assert set(page.refs) <= set(page.ids), "a reference to nothing"
    return page


def test_a_whole_run_shows_every_part(make_run):
    data = make_run("data prepare", name="data", full=False)
    render_run(data)
    page = page_of(make_run("pretrain", parents={"data": data}))
    for title in ("What the number means", "Curves", "In its own words", "Data", "Gates", "Files", "Decided on this machine", "Lineage"):
        assert title in page.text, title
    for piece in (
        "1.834 ± 0.012",
        "5-gram byte model",
        "9.25k",
        "9,248 parameters",
        "bf16",
        "F32 log-probability",
        "Gradient norm",
        "Halting",
    ):
        assert piece in page.text, piece
    assert "../data/report.html" in page.loads
    assert page.text.count("step 192, the last") == 1


def test_hostile_text_stays_text(make_run):
    text = render_run(make_run()).read_text(encoding="utf-8")
    assert "<script" not in text and "<img" not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in text
    assert "Content-Security-Policy" in text and "default-src &#x27;none&#x27;" in text


def test_everything_written_comes_back(make_run):
    view = read_run(make_run())
    assert view.parameters == 256 * 32 + 32 * 32 + 32 and view.status == "complete"
    assert len(view.samples) == 26 and len(view.metrics) == 210 and not view.troubles


PIECES = ("metrics.jsonl", "samples.jsonl", "data.json", "evaluation.json", "config.yaml", "model/model.safetensors")
DAMAGE = {
    "missing": None,
    "empty": b"",
    "torn": b"{",
    "a list": b"[1, 2]\n",
    "wrong types": b'{"step": 1e999, "loss": null, "baselines": 3, "model": [], "notes": 5, "text": "x", "sentence": []}\n',
    "not text": b"\xff\xfe\x00\n: : :\n- {",
}


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_missing_or_damaged_piece_costs_that_piece_only(make_run, piece, damage):
    path, content = make_run(steps=10 if piece == "metrics.jsonl" else 0), DAMAGE[damage]
    if content is None:
        (path / piece).unlink()
    else:
        (path / piece).write_bytes(content)
    page = page_of(path)
    assert "Decided on this machine" in page.text and "complete" in page.text


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
@pytest.mark.parametrize("full", [True, False])
def test_runs_that_broke_off(make_run, status, full):
    path = make_run(status=status, full=full, steps=40)
    manifest = json.loads((path / "run.json").read_text())
    manifest["error"] = "the loss is <nan> at step 40"
    (path / "run.json").write_text(json.dumps(manifest))
    page = page_of(path)
    shown = "interrupted" if status == "running" else status  # nobody holds the folder: it is not running
    assert shown in page.text and "the loss is <nan> at step 40" in page.text
    assert "--resume" in page.text if shown == "interrupted" else "This run failed" in page.text
    assert ("at step 40" in headline(read_run(path))) == full


def test_no_run_is_said_so(tmp_path):
    with pytest.raises(RunError, match=r"no run.json"):
        render_run(tmp_path)


def test_a_parent_that_is_gone_is_named(make_run, tmp_path):
    data = make_run("data prepare", name="data", full=False)
    path = make_run("pretrain", parents={"data": data}, full=False)
    (data / "run.json").unlink()
    assert "not there any more" in page_of(path).text


def test_what_training_came_to_in_words(make_run):
    path = make_run()
    (path / "evaluation.json").unlink()
    (path / "model" / "model.safetensors").unlink()
    sentence = headline(read_run(path))
    assert sentence.startswith("Trained for 200 steps on 410k tokens. The model needs 1.834 bits")
    assert "down from" in sentence


def test_the_same_run_draws_the_same_page(make_run):
    path = make_run(steps=30)
    assert render_run(path).read_bytes() == render_run(path).read_bytes()


def test_markdown_says_the_same(make_run):
    text = run_markdown(make_run())
    assert "| this model | 1.834 | 0.012 |" in text and "| parity | greedy ids | 64 of 64 | equal | ok |" in text
    assert "<script" not in text and "true size: 9.25k (9,248 parameters)" in text


@pytest.mark.parametrize(
    "content", [b"", b"\x01", b"\xff" * 8, (2).to_bytes(8, "little") + b"[]", (9).to_bytes(8, "little") + b'{"a": 17}']
)
def test_a_file_that_is_no_safetensors_has_no_size(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    assert count_tensors(tmp_path / "x.safetensors") is None


def test_reports_need_no_torch_and_no_matplotlib_at_import():
    code = "import sys, phiforge.report.run, phiforge.report.markdown; print({'torch', 'matplotlib', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_golden_schedules_phases_and_rollbacks_are_drawn(make_run):
    path = make_run(full=False)
    lines = []
    for step in range(1, 101):
        phase = 1 if step <= 38 else 2
        line = {"step": step, "tokens": 100 * step, "loss": 3 - step / 100, "learning_rate": 1e-3, "phase": phase}
        lines.append(line | {"batch_size": 8 if phase == 1 else 12, "dropout": 0.1 - step / 2000, "weight_decay": 0.01 + step / 20000})
        if step == 60:
            rollback = {"at": 64, "to": 60, "reason": "the loss was <b>not</b> finite", "loss": None, "scale": 1.0}
            lines.append({"step": 60, "epoch": 0.5, "rollback": rollback})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = render_run(path).read_text(encoding="utf-8")
    Page(text)
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert [re.sub(r" ?<.*", "", title) for title in titles] == ["Loss", "Learning rate", "Batch", "Dropout", "Weight decay"]
    assert text.count("phase 2") == text.count("rolled back") == len(titles)
    assert "saw the loss was &lt;b&gt;not&lt;/b&gt; finite at step 64 and went back to step 60" in text
