"""What the docs say is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

from tests.documentation import pages

ROOT = Path(__file__).parents[2]


def test_the_command_reference_is_fresh() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == pages(), "run `make docs`"


def test_links_in_the_docs_lead_somewhere() -> None:
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file}: {target} is not there"


def test_the_readme_names_every_room() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = [path.name for path in (ROOT / "src" / "phiforge").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert all(f"  {room}/" in text for room in rooms)
