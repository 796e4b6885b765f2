"""Sets of the hub: names, layouts through `datasets` streaming, patience with a busy hub, and what is said when there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from phiforge.core.errors import DataError
from phiforge.data import hub, retry
from phiforge.data.catalogue import CORPORA
from phiforge.data.config import DataPrepareConfig
from phiforge.data.sources import Intake, Limits, input_files, read_source, read_unit, units
from tests.unit.data.loopback_hub import SHA, serving


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("hub:a/b", hub.HubSet("a/b")),
        ("hub:wikimedia/wikipedia:20231101.en", hub.HubSet("wikimedia/wikipedia", "20231101.en")),
        ("hub:a/b@en", hub.HubSet("a/b", None, "en")),
        ("hub:a/b-c.d:x/y@train", hub.HubSet("a/b-c.d", "x/y", "train")),
    ],
)
def test_names_of_sets(source: str, wanted: hub.HubSet) -> None:
    assert hub.parse(source) == wanted and wanted.name == source and not wanted.local


@pytest.mark.parametrize("source", ["hub:", "hub:nope", "hub:a/b/c", "hub:a b/c", "hub:a/b@", "hub:./nowhere", "hub:/nowhere:x@y"])
def test_names_that_are_none(source: str) -> None:
    with pytest.raises(DataError, match=r"not a set of the hub|no such folder"):
        hub.parse(source)


def build(root: Path) -> Path:
    """Two parquet shards and a test split, as `push_to_hub` leaves them."""
    arrow, tables = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (root / "data").mkdir(parents=True)
    for name, count in (("train-00000-of-00002", 40), ("train-00001-of-00002", 40), ("test-00000-of-00001", 1)):
        texts = [f"{name} row {n} " + os.urandom(2000).hex() for n in range(count)]
        tables.write_table(arrow.table({"id": list(range(count)), "text": texts}), root / "data" / f"{name}.parquet", row_group_size=5)
    (root / "README.md").write_text("# Books\n")
    return root


def configs(root: Path) -> Path:
    """Two configs of packed .jsonl, and one of plain texts."""
    lines = ["---", "configs:"]
    for name in ("en", "de"):
        (root / name).mkdir(parents=True)
        rows = "".join(json.dumps({"text": f"{name} {n}", "meta": {"n": n}}) + "\n" for n in range(3))
        (root / name / "a.jsonl.zst").write_bytes(zstandard.compress(rows.encode()))
        lines += [f"- config_name: {name}", "  data_files:", "  - split: train", f"    path: {name}/*.zst"]
    (root / "plain").mkdir()
    (root / "plain" / "a.txt").write_text("one document\nof two lines\n")
    (root / "README.md").write_text("\n".join([*lines, "- config_name: plain", "  data_files: plain/*.txt", "---", "# Texts"]))
    return root


def read(source: str, **settings: object) -> tuple[list[tuple[str, str]], Intake]:
    config = DataPrepareConfig(source=[source], **settings)  # type: ignore[arg-type]
    intake, limits, found = Intake.of(config), Limits(), []
    for unit in units(source, config, intake):
        if not limits.full(unit):
            found += [(d.source, d.text) for d in read_unit(unit, intake) if limits.admit(unit, len(d.text.encode()))]
    return found, intake


def test_a_local_set_through_datasets_is_what_its_folder_gives(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = build(tmp_path / "set")
    streamed, _ = read(f"hub:{root}")
    assert [text for _, text in streamed] == [document.text for document in read_source(root, Intake())] and len(streamed) == 80
    assert streamed[41][0] == "set/data/train-00001-of-00002.parquet:1"
    assert len(read(f"hub:{root}@test")[0]) == 1
    assert input_files(f"hub:{root}") == []
    with pytest.raises(DataError, match=r"no split 'tset' -> it has train, test|no split 'tset' -> it has test, train"):
        read(f"hub:{root}@tset")


def test_max_files_are_rows_over_all_shards_and_no_shard_is_read_for_nothing(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = build(tmp_path / "set")
    assert len(read(f"hub:{root}", max_files=45)[0]) == 45
    few, _ = read(f"hub:{root}", max_bytes=10_000)
    assert len(few) == 2 and all("train-00000" in source for source, _ in few)


def test_configs_columns_and_plain_texts(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = configs(tmp_path / "set")
    assert [text for _, text in read(f"hub:{root}:de")[0]] == ["de 0", "de 1", "de 2"]
    assert [text for _, text in read(f"hub:{root}:plain")[0]] == ["one document\nof two lines\n"]
    with pytest.raises(DataError, match=r"which config\? -> .*:CONFIG, one of en, de, plain"):
        read(f"hub:{root}")
    with pytest.raises(DataError, match=r"no config 'fr' .*it has en, de, plain"):
        read(f"hub:{root}:fr")
    with pytest.raises(DataError, match=r"no column 'poem' with text \(has: text, meta\)"):
        read(f"hub:{root}:en", text_column="poem")


def test_a_broken_shard_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = build(tmp_path / "set")
    shard = root / "data" / "train-00000-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-50])
    found, intake = read(f"hub:{root}")
    assert len(found) == 40 and intake.skipped == {"corrupt parquet file": 1}


CLIENT = """
import json, sys
from phiforge.core.errors import DataError
from phiforge.data import retry
from phiforge.data.config import DataPrepareConfig
from phiforge.data.sources import Intake, read_unit, units
retry.FIRST_WAIT = 0.01
config, intake, out = DataPrepareConfig(source=["x"]), Intake(), {"texts": [], "units": [], "errors": []}
for source in sys.argv[1:]:
    try:
        for unit in units(source, config, intake):
            out["units"].append([unit.key, unit.path, unit.size])
            out["texts"] += [document.text[:40] for document in read_unit(unit, intake)]
    except DataError as error:
        out["errors"].append(str(error))
print(json.dumps({**out, **intake.counts()}))
"""


def client(address: str, home: Path, *sources: str, **environment: str) -> tuple[dict, str]:
    """What a process of its own reads: the libraries look at HF_ENDPOINT when they are imported. (answer, stderr)"""
    own = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *sources], capture_output=True, text=True, check=False, env={**os.environ, **own}, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_a_hub_that_is_busy_twice_and_breaks_off_half_way_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    root = build(tmp_path / "set")
    with serving(root, busy={"^/api/datasets/me/books": 2, "train-00001": 1, "me/never": 99}, cut={"train-00000": 1}) as served:
        sources = ("hub:me/books", "hub:me/never", "hub:me/nothing")
        found, said = client(served.address, tmp_path / "home", *sources, HF_TOKEN="hf_secretsecretsecret")
    assert [text[:28] for text in found["texts"]] == [document.text[:28] for document in read_source(root, Intake())]
    assert said.count("hub:me/books: 503, service unavailable; trying again") == 2 and not found["skipped"]
    assert "secretsecret" not in said + json.dumps(found) and "Bearer hf_secretsecretsecret" in served.tokens
    assert all(f"@{SHA}/data/train-" in path and size > 100_000 for _, path, size in found["units"])
    assert not any("test-00000" in path for path in served.asked)
    busy, missing = found["errors"]
    assert "is busy" in busy and "tried 8 times" in busy and "what was read is kept" in busy
    assert "hub:me/nothing: not found" in missing


def test_no_hub_and_offline_are_one_line_with_the_way_out(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with serving(tmp_path) as served:
        pass
    gone, _ = client(served.address, tmp_path / "home", "hub:me/books")
    assert "could not be reached" in gone["errors"][0] and "source=FOLDER" in gone["errors"][0]
    if os.environ.get("HF_HUB_OFFLINE") == "1":  # as the suite's own set-up says
        with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set -> .*source=FOLDER"):
            read("hub:me/books")


class Busy(Exception):
    """As the libraries raise it: the answer hangs on the error."""

    def __init__(self, status: int, **headers: str) -> None:
        super().__init__(f"{status} for https://hub/secret?token=hf_x")
        self.response = type("Response", (), {"status_code": status, "headers": {k.replace("_", "-"): v for k, v in headers.items()}})()


def test_patience_doubles_and_heeds_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", waited.append)
    failures = [Busy(503), TimeoutError(), ConnectionResetError(), Busy(429, Retry_After="30"), Busy(500)]

    def call() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert retry.patiently(call, "a set") == "done" and waited == [1, 2, 4, 30, 16]


@pytest.mark.parametrize("error", [Busy(404), Busy(403), ValueError("no"), KeyError("x")])
def test_what_waiting_does_not_mend_is_raised_at_once(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda _: pytest.fail("it waited"))

    def call() -> None:
        raise error

    with pytest.raises(type(error)):
        retry.patiently(call, "a set")
    assert "hf_x" not in str(retry.explained(error, "a set"))


def test_known_corpora_name_their_sets() -> None:
    assert CORPORA["gutenberg"].sources(["en", "de"]) == ["hub:manu/project_gutenberg@en", "hub:manu/project_gutenberg@de"]
    assert CORPORA["wikipedia"].sources(["sw"]) == ["hub:wikimedia/wikipedia:20231101.sw@train"]
    assert CORPORA["pg19"].sources(None) == ["hub:emozilla/pg19@train"]
    with pytest.raises(DataError, match="arxiv: has no text in de"):
        CORPORA["arxiv"].sources(["de"])
    for corpus in CORPORA.values():
        assert all(hub.parse(source).id == corpus.id for source in corpus.sources(["en"])) and corpus.licence and corpus.size
