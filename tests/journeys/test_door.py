"""The door: help is light, versions are told, unknown words are one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "matplotlib", "pydantic", "xllamacpp", "tokenizers", "accelerate")


def phiforge(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "phiforge.cli.main", *words], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = f"import sys, phiforge.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_help_goes_to_stdout_and_names_every_verb() -> None:
    shown = phiforge("--help")
    assert shown.returncode == 0 and shown.stderr == ""
    verbs = "quickstart plan run pretrain finetune evaluate data tokenizer export chat serve runs doctor schema".split()
    assert all(f" {verb} " in shown.stdout for verb in verbs)


def test_version() -> None:
    assert phiforge("--version").stdout.startswith("0.")


@pytest.mark.parametrize(
    "words",
    [
        ("nothing",),
        ("runs",),
        ("data", "cook"),
        ("chat",),
        ("schema", "pretrian"),
        ("run", "codette/quickstar"),
        ("pretrain", "one", "two"),
        ("runs", "show"),
    ],
)
def test_wrong_words_are_exit_code_2(words: tuple[str, ...]) -> None:
    said = phiforge(*words)
    assert said.returncode == 2, said.stderr
    if words != ("runs",):  # a group without a verb shows its help
        assert said.stderr.startswith("error: ") and said.stderr.count("\n") == 1 and said.stdout == ""
