"""Every stage there is, by name. Adding a stage: one line in its room's `stages.py`."""

from __future__ import annotations

from phiforge.core.config import nearest
from phiforge.core.errors import ConfigError
from phiforge.core.stages import Stage
from phiforge.data.stages import STAGES as DATA
from phiforge.evaluate.stages import STAGES as EVALUATE
from phiforge.export.stages import STAGES as EXPORT
from phiforge.train.stages import STAGES as TRAIN

STAGES: dict[str, Stage] = {stage.name: stage for stage in (*DATA, *TRAIN, *EVALUATE, *EXPORT)}


def get_stage(name: str) -> Stage:
    """The stage called `name`. Raises ConfigError with the nearest one."""
    try:
        return STAGES[name]
    except KeyError:
        raise ConfigError(f"no stage is called {name!r}; {nearest(name, STAGES)}") from None
