"""A person looks at a corpus: in the terminal, as JSON, and as a page in a real browser where one is installed."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phiforge.cli.main import app
from tests.journeys.test_report_html import HOSTILE, browse, needs_browser


def phiforge(*words: str) -> tuple[str, str]:
    """(stdout, stderr) of a command that must succeed."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Three sources of different matter, one of them with a name that means harm."""
    root = tmp_path_factory.mktemp("corpus") / "texts"
    texts = {
        "novels": "The happy mother kissed her child and thought of the dark stone house with its iron gate. ",
        "science": "Infinite galaxies and tiny atoms obey a theory; the vast universe expands for ever. ",
        HOSTILE.replace("/", "_")[:100]: "Justice, liberty and the parliament of a free nation; armies, crowds and treaties. ",
    }
    for number, (name, text) in enumerate(texts.items()):
        (root / name).mkdir(parents=True)
        for part in range(3):
            (root / name / f"{part}.txt").write_text(f"Text {number}{part}. {HOSTILE}\n" + (text * 8 + "\n") * (20 + 9 * part))
    (root / "novels" / "copy.txt").write_text((root / "novels" / "0.txt").read_text())
    return root


@pytest.fixture(scope="module")
def page(corpus, tmp_path_factory) -> Path:
    """The page that the verb writes."""
    target = tmp_path_factory.mktemp("page") / "corpus.html"
    _, said = phiforge("data", "stats", str(corpus), "--out", str(target), "--least-share", "0.05")
    assert f"page: {target}" in said.replace("\n", "")
    return target


def test_the_terminal_says_what_is_there_and_what_is_short(corpus):
    shown, said = phiforge("data", "stats", str(corpus), "--least-share", "0.05")
    for words in ("documents", "left out: duplicate", "Different words over words read", "Document lengths", "Content axioms", "suggested"):
        assert words in shown
    assert "little about" in said and "little about" not in shown


def test_json_is_one_document_and_says_the_same(corpus):
    shown, _ = phiforge("data", "stats", str(corpus), "--json")
    found = json.loads(shown)
    assert found["documents"] == 9 and len(found["measured"]["coverage"]["sources"]) == 3
    again, _ = phiforge("data", "stats", str(corpus), "--json")
    assert again == shown


def test_a_sample_is_said_to_be_one(corpus):
    shown, _ = phiforge("data", "stats", str(corpus), "--sample-mb", "0.1")
    assert "a sample: " in shown


def test_a_place_that_can_not_be_written_is_one_line(corpus, tmp_path):
    (tmp_path / "file").write_text("x")
    done = CliRunner().invoke(app, ["data", "stats", str(corpus), "--out", str(tmp_path / "file" / "page.html")])
    assert done.exit_code != 0 and "Traceback" not in done.output


@needs_browser
def test_opens_offline_without_a_request_or_a_complaint(page, tmp_path):
    blank, loud = tmp_path / "blank.html", tmp_path / "loud.html"
    blank.write_text("<!doctype html><title>x</title>")
    loud.write_text('<!doctype html><img src="http://example.invalid/y.png"><script>console.error("control")</script>')
    _, own, _ = browse(blank, tmp_path)  # what the browser asks for by itself
    _, seen, messages = browse(loud, tmp_path)
    assert "example.invalid" in seen and "control" in messages, "the control was not noticed: this test would miss a real fault"
    document, hosts, messages = browse(page, tmp_path)
    assert hosts <= own | {host for host in seen if "example.invalid" not in host}
    assert messages == "" and "<script" not in document and document.count("<svg") == 2


@needs_browser
@pytest.mark.parametrize("width", [320, 1400])
def test_nothing_sticks_out_at_any_width(page, tmp_path, width):
    """A frame of that width around the page; the outer page measures the inner one, with every folded part open."""
    inner = html.escape(page.read_text(encoding="utf-8").replace("<details>", "<details open>"))
    measure = "document.title = 'width ' + document.querySelector('iframe').contentDocument.documentElement.scrollWidth"
    outer = tmp_path / "outer.html"
    frame = f'<iframe onload="{html.escape(measure)}" style="border:0;width:{width}px;height:900px" srcdoc="{inner}"></iframe>'
    outer.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin:0">{frame}', encoding="utf-8")
    document, _, _ = browse(outer, tmp_path, width=1500)
    assert re.search(r"<title>width (\d+)</title>", document)[1] == str(width)
