"""The default corpus comes from wherever the interpreter's library lies, a zip file too."""

from __future__ import annotations

import builtins
import hashlib
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from phiforge.core.errors import DataError
from phiforge.data import python_corpus


def test_it_is_there_and_has_no_tests_or_tables_in_it() -> None:
    documents = list(python_corpus.read_python())
    names = {document.source.removeprefix("python/") for document in documents}
    assert sum(len(document.text) for document in documents) > 5_000_000
    assert {"argparse", "json.decoder", "topics/assert", "builtin/itertools"} <= names
    left_out = ("test", "idlelib", "encodings", "unittest.test", "lib2to3", "tkinter.test", "pydoc_data", "html.entities")
    assert not [name for name in names if name.startswith(left_out)]
    assert [d.id for d in documents] == [d.id for d in python_corpus.read_python()]


DIGEST = """
import hashlib
from phiforge.data.python_corpus import read_python
print(hashlib.sha256("".join(d.id + d.source for d in read_python()).encode()).hexdigest())
"""


def test_it_does_not_depend_on_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on what is imported, nor on hooks that a program has set, nor on the site module."""
    monkeypatch.setattr(sys, "excepthook", lambda *arguments: None)
    monkeypatch.setattr(sys, "breakpointhook", print)
    monkeypatch.setattr(builtins, "exit", sys.exit.__call__, raising=False)
    here = hashlib.sha256("".join(d.id + d.source for d in python_corpus.read_python()).encode()).hexdigest()
    fresh = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True).stdout
    assert fresh.strip() == here


def test_a_zipped_library_gives_the_same_documents(tmp_path: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    modules = ["argparse.py", *(f"json/{path.name}" for path in (library / "json").glob("*.py"))]
    for place in ("folder", "python311.zip"):
        if place.endswith(".zip"):
            with zipfile.ZipFile(tmp_path / place, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in modules:
                    archive.write(library / name, name)
        else:
            for name in modules:
                (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / place / name).write_bytes((library / name).read_bytes())
    zipped, unpacked = (list(python_corpus.read_python(paths=[str(tmp_path / place)])) for place in ("python311.zip", "folder"))
    assert zipped == unpacked
    assert {"python/argparse", "python/json", "python/json.decoder"} <= {document.source for document in zipped}


def test_without_any_source_there_is_still_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_corpus, "_topics", lambda: iter(()))
    documents = list(python_corpus.read_python(paths=[str(tmp_path)]))
    assert documents and sum(len(document.text) for document in documents) > 50_000
    monkeypatch.setattr(python_corpus, "_builtin_modules", lambda: iter(()))
    with pytest.raises(DataError, match="without sources and documentation"):
        list(python_corpus.read_python(paths=[str(tmp_path)]))


def test_a_module_of_ones_own_is_not_taken_for_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "argparse.py").write_text("mine = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) not in python_corpus.library_paths()
    assert not any(document.text == "mine = 1\n" for document in python_corpus.read_python())
