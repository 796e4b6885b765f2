"""A person opens report.html without a network, on a phone and on a desk: in a real browser where one is installed."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import Field

from phiforge.core import atomic
from phiforge.core.config import Config
from phiforge.core.gates import Check, GateReport
from phiforge.core.runs import RunWriter, new_manifest
from phiforge.report.run import render_run

HOSTILE = '</pre><script>document.title="taken"</script><img src="http://example.invalid/x.png">' + "w" * 300
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Settings(Config):
    """Of the run that is shown."""

    data: str = Field(default="a/very/long/path/" + "folder-" * 20, description="where the text came from")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The report of a run with long names, long words and hostile text in every place."""
    manifest = new_manifest("pretrain", Settings(), command=["pretrain", HOSTILE])
    run = RunWriter(tmp_path_factory.mktemp("runs") / "demo", manifest, Settings())
    run.begin()
    for step in range(1, 101):
        run.metric({"step": step, "loss": 2 + math.exp(-step / 20), "learning_rate": 1e-3, HOSTILE: 1.0 * step})
        if step % 20 == 0:
            run.metric({"step": step, "eval_bits_per_byte": 2 + math.exp(-step / 20)})
    atomic.write_text(run.path / "samples.jsonl", json.dumps({"step": 100, "prompt": HOSTILE, "text": HOSTILE}) + "\n")
    atomic.write_json(run.path / "data.json", {"dropped": [{HOSTILE: HOSTILE, "documents": 12_345_678, "bytes": 1}], "big": "w" * 400})
    run.decide("precision", lambda: "bf16", why=HOSTILE)
    run.gate(GateReport(gate="parity", checks=[Check(name="ids " + "n" * 80, value=1e-4, limit="<= 1e-3", passed=True, note=HOSTILE)]))
    run.end("complete", metrics={"eval_bits_per_byte": 2.0, "tokens": 10**9, "w" * 120: 1.0})
    return render_run(run.path)


def browse(page: Path, folder: Path, *, width: int = 1400) -> tuple[str, set[str], str]:
    """Open a page: (the document afterwards, hosts asked for, console messages). No name resolves, so nothing leaves the machine."""
    net = folder / "net.json"
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    flags += " --disable-sync --disable-dev-shm-usage --hide-scrollbars --enable-logging=stderr --log-level=0 --virtual-time-budget=2000"
    command = [str(BROWSER), *flags.split(), "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},2000"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={net}", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    hosts = {urlsplit(url).netloc for url in re.findall(r'"url":"(https?://[^"]+)"', net.read_text(encoding="utf-8", errors="replace"))}
    messages = "\n".join(line for line in done.stderr.decode("utf-8", "replace").splitlines() if "CONSOLE" in line)
    return done.stdout.decode("utf-8", "replace"), hosts, messages


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")


@needs_browser
def test_opens_offline_without_a_request_or_a_complaint(report, tmp_path):
    blank, loud = tmp_path / "blank.html", tmp_path / "loud.html"
    blank.write_text("<!doctype html><title>x</title>")
    loud.write_text('<!doctype html><img src="http://example.invalid/y.png"><script>console.error("control")</script>')
    _, own, _ = browse(blank, tmp_path)  # what the browser asks for by itself
    _, seen, messages = browse(loud, tmp_path)
    assert "example.invalid" in seen and "control" in messages, "the control was not noticed: this test would miss a real fault"
    document, hosts, messages = browse(report, tmp_path)
    assert hosts <= own | {host for host in seen if "example.invalid" not in host}
    assert messages == ""
    assert "<title>demo · pretrain</title>" in document and "<script" not in document
    assert document.count("<svg") == 4 and "drawn by phiforge" in document


@needs_browser
@pytest.mark.parametrize("width", [320, 400, 1400])
def test_nothing_sticks_out_at_any_width(report, tmp_path, width):
    """A frame of that width around the page; the outer page measures the inner one, with every folded part open."""
    inner = html.escape(report.read_text(encoding="utf-8").replace("<details>", "<details open>"))
    measure = "document.title = 'width ' + document.querySelector('iframe').contentDocument.documentElement.scrollWidth"
    outer = tmp_path / "outer.html"
    frame = f'<iframe onload="{html.escape(measure)}" style="border:0;width:{width}px;height:900px" srcdoc="{inner}"></iframe>'
    outer.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin:0">{frame}', encoding="utf-8")
    document, _, _ = browse(outer, tmp_path, width=1500)
    assert re.search(r"<title>width (\d+)</title>", document)[1] == str(width)


def test_the_file_alone_is_enough(report):
    """Without a browser: nothing in the file points outside."""
    text = report.read_text(encoding="utf-8")
    attributes = re.findall(r'\s(?:src|href|srcset|action|poster|data|xmlns[:\w]*)="([^"]*)"', text)
    assert [value for value in attributes if not value.startswith("#")] == ["data:,"]
    assert "@import" not in text and not re.search(r"url\((?!#)", text) and "<script" not in text
    assert len(text) < 400_000
