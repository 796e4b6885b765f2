"""Imports go one way: a room imports only from rooms above it, and nothing inside imports the package root."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "phiforge"
ABOVE = "core stats report golden optim nn models generate tools data evaluate train"
LADDER = [*ABOVE.split(), *"export backends evolve reason align compress agent recipes lab cli".split()]
FILES = sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, module) of every import in a file, late ones included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_a_room_imports_only_from_above(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for line, module in imported(path):
        parts = module.split(".")
        if parts[0] != "phiforge":
            continue
        assert len(parts) > 1 and parts[1] in LADDER, f"{path}:{line}: imports the package root ({module})"
        assert room != "__init__.py", f"{path}:{line}: the root stays empty"
        assert LADDER.index(parts[1]) <= LADDER.index(room), f"{path}:{line}: {room} imports from {parts[1]}, which lies below it"


def test_every_room_is_on_the_ladder() -> None:
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= set(LADDER)


def test_the_door_and_the_configs_are_light() -> None:
    """No torch, transformers or numpy at import of a verb or a config: `phiforge --help` must answer at once."""
    light = [path for path in FILES if path.parent.name == "cli" or path.name in ("config.py", "stages.py")]
    assert len(light) > 10
    for path in light:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            heavy = {name.split(".")[0] for name in names} & {"torch", "transformers", "numpy", "matplotlib", "xllamacpp", "tokenizers"}
            assert not heavy, f"{path}:{node.lineno}: imports {heavy} at once"
