"""A stage: a function from a config and parent runs to a run. The runner does the rest."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phiforge.core.config import Config

if TYPE_CHECKING:
    from phiforge.core.runs import Run, RunWriter

Body = Callable[[Any, "dict[str, Run]", "RunWriter"], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a parent run is to a stage: `data`, `tokenizer`, `model`, `reference`, ..."""

    name: str
    about: str
    required: bool = True


def _no_files(config: Config) -> list[Path]:
    return []


def _no_rule(config: Config, roles: frozenset[str]) -> None:
    """Most configs know by themselves whether they can be."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of a recipe.

    `body` is named as "module:function" and imported only when the stage runs, so that listing stages stays cheap.
    It is called as `body(config, parents, run)` and returns the final metrics.
    `inputs` lists the files that the config names: their sha256 decides whether a finished stage is run again.
    `check(config, roles)` raises ConfigError for a config that can't be with the parents given; it is asked before any stage starts.
    `distributed`: every process of a `torchrun` takes part; otherwise the first one works and the others wait.
    """

    name: str
    about: str
    config: type[Config]
    body: str
    roles: tuple[Role, ...] = field(default=())
    inputs: Callable[[Any], list[Path]] = _no_files
    check: Callable[[Any, frozenset[str]], None] = _no_rule
    distributed: bool = False

    def load(self) -> Body:
        """The function behind the stage."""
        module, _, function = self.body.partition(":")
        return getattr(importlib.import_module(module), function)
