"""Strict configs: one line for every mistake, the nearest key named, values read as a person means them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from phiforge.core.config import Config, build, digest, load_yaml, merge, parse_overrides, parse_yaml, to_data, to_yaml
from phiforge.core.errors import ConfigError


class Inner(Config):
    size: str = "1M"
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Outer(Config):
    learning_rate: float = Field(default=1e-3, gt=0)
    max_steps: int | None = None
    names: list[str] = []
    model: Inner = Inner()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"learning_rat": 1}, ["'learning_rat'", "did you mean 'learning_rate'?"]),
        ({"model": {"drpout": 0.1}}, ["'model.drpout'", "did you mean 'dropout'?"]),
        ({"zebra": 1}, ["'zebra'", "known: learning_rate"]),
        ({"learning_rate": -1}, ["learning_rate", "greater than 0", "not -1"]),
        ({"learning_rate": "fast"}, ["learning_rate", "valid number", "'fast'"]),
        ({"learning_rate": float("nan")}, ["learning_rate"]),
        ({"max_steps": 1.5}, ["max_steps", "1.5"]),
        ({"model": 3}, ["model", "3"]),
        ({"names": "x" * 500}, ["names", "..."]),
        ({"lr": 1e-2, "learning_rate": 1e-3}, ["learning_rate", "twice"]),
    ],
)
def test_a_mistake_is_one_line(data: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, data, where="file.yaml")
    text = str(caught.value)
    assert text.startswith("file.yaml: ") and "\n" not in text and len(text) < 300
    assert all(word in text for word in words), text


def test_an_unknown_key_is_told_before_what_is_missing() -> None:
    class Needs(Config):
        recipe: str
        seeds: int

    with pytest.raises(ConfigError, match=r"x: unknown key 'sedes'; did you mean 'seeds'\? \(and 2 more\)"):
        build(Needs, {"sedes": 6}, where="x")


def test_aliases_of_the_documents() -> None:
    assert build(Outer, {"lr": 0.01}, where="x").learning_rate == 0.01
    assert build(Outer, {"learning-rate": 0.01}, where="x").learning_rate == 0.01


def test_yaml_there_and_back() -> None:
    config = build(Outer, {"names": ["a", "ü"], "model": {"size": "300K"}}, where="x")
    assert build(Outer, parse_yaml(to_yaml(config), where="y"), where="y") == config
    assert digest(to_data(config)) != digest(to_data(Outer()))


def test_overrides_are_read_as_meant() -> None:
    read = parse_overrides(["learning_rate=1e-3", "model.size=10M", "model.dropout=.1", "names=[a, b]", "flag=true", "path=a: b", "empty="])
    assert read == {
        "learning_rate": 1e-3,
        "model": {"size": "10M", "dropout": 0.1},
        "names": ["a", "b"],
        "flag": True,
        "path": "a: b",
        "empty": None,
    }


@pytest.mark.parametrize("pair", ["learning_rate", "=1", ".=1", "a..b=1"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_overrides([pair])


def test_merge_goes_mapping_by_mapping() -> None:
    assert merge({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}, "b": 1}) == {"a": {"x": 1, "y": 3}, "b": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: 1\na: 2\n", "twice"),
        (b"a: [1\n", "line 2"),
        (b"- 1\n", "mapping"),
        (b"just words", "mapping"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"a: !!python/object/apply:os.system ['true']", "line 1"),
        (b"? [a]\n: 1", "plain word"),
        (b"a: &x 1\nb: *y\n", "line 2"),
        (b"a\t: 1\n\tb: 2", "YAML"),
        (b"{" * 5000, "YAML"),
    ],
)
def test_bad_yaml_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_yaml(file)
    assert "\n" not in str(caught.value) and "c.yaml" in str(caught.value)


def test_a_missing_or_huge_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * 1_100_000)
    with pytest.raises(ConfigError, match="too large"):
        load_yaml(tmp_path / "huge.yaml")


def test_a_byte_order_mark_and_an_empty_file_are_fine(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    (tmp_path / "empty.yaml").write_bytes(b"")
    assert load_yaml(tmp_path / "bom.yaml") == {"a": 1}
    assert load_yaml(tmp_path / "empty.yaml") == {}
