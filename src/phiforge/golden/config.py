"""The golden switches of a training run. Each is off until asked for; PHITrainingConfig (golden/api.py) turns on what the document does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from phiforge.core.config import Config
from phiforge.core.errors import ConfigError
from phiforge.golden.schedules import canonical

Focus = Literal["exploration", "exploitation"]
Wave = bool | Literal["cyclic"]


class PhaseConfig(Config):
    """What holds in one of the two phases in place of the run's own schedule; what is left out stays as it is."""

    lr_scheduler_type: str | None = Field(default=None, description="schedule of the rate over this phase alone, from 0 to 1 of it")
    learning_rate: float | None = Field(default=None, gt=0, le=10, description="base rate in this phase")
    batch_size: int | None = Field(default=None, ge=1, description="rows in one optimizer step in this phase")
    dropout: float | None = Field(default=None, ge=0, lt=1, description="dropout in this phase")
    weight_decay: float | None = Field(default=None, ge=0, description="weight decay in this phase")

    @field_validator("lr_scheduler_type")
    @classmethod
    def _known_schedule(cls, value: str | None) -> str | None:
        try:
            return None if value is None else canonical(value)
        except ConfigError as error:
            raise ValueError(error.what.removeprefix("lr_scheduler_type=")) from None


class PhiConfig(Config):
    """Golden-ratio ideas, one switch each. Field names are the document's where it has one."""

    phi_lr_power: float = Field(default=1.0, gt=0, le=16, description="phi_decay: the power of progress in the exponent")
    lr_cycles: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="cycles of phi_cosine (none = 1) and phi_cyclic (none = 4); each phi times as long as the last",
    )
    phi_batch_progression: bool = Field(default=False, description="the batch grows as int(base * phi^phase), and is applied")
    max_batch_size: int = Field(default=128, ge=1, le=1 << 20, description="most rows in one optimizer step")
    batch_phi_phases: int = Field(
        default=3, ge=1, le=32, description="batch phases: the first spans training phase 1, the others share phase 2"
    )
    phi_training_phases: bool = Field(default=False, description="two training phases, 38.2 % and 61.8 % of the tokens, each with a focus")
    phase1_focus: Focus = Field(default="exploration", description="exploration = uniform sampling, exploitation = difficulty-weighted")
    phase2_focus: Focus = Field(default="exploitation", description="the same for the second phase")
    phase1: PhaseConfig = Field(default=PhaseConfig(), description="schedules that hold in the first phase only")
    phase2: PhaseConfig = Field(default=PhaseConfig(), description="schedules that hold in the second phase only")
    base_dropout: float | None = Field(default=None, ge=0, lt=1, description="dropout to start from; none = the model's own")
    phi_dropout_schedule: Wave = Field(
        default=False, description="dropout from base down to base/phi; cyclic = a sine of periods total/phi"
    )
    phi_weight_decay_schedule: Wave = Field(default=False, description="weight decay from base up to phi*base; cyclic = the same sine")
    sampling: Literal["golden", "fibonacci"] = Field(
        default="golden",
        description="weights by difficulty rank: golden = phi^(rank/n); fibonacci overflows and is refused from 64 rows on",
    )
    sampling_replacement: bool = Field(default=False, description="draw difficulty-weighted rows with replacement")
    difficulty: str = Field(
        default="unigram",
        description="what makes a row difficult: unigram (its tokens' mean surprise), loss (the model's own), column:NAME",
    )

    @field_validator("difficulty")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("unigram", "loss") and not (value.startswith("column:") and len(value) > 7):
            raise ValueError(f"must be unigram, loss or column:NAME, not {value!r}")
        return value

    @property
    def applies(self) -> bool:
        """Whether any switch that changes more than the learning rate's shape is on."""
        blocks = (self.phase1, self.phase2)
        return bool(
            self.phi_batch_progression
            or self.phi_training_phases
            or self.phi_dropout_schedule
            or self.phi_weight_decay_schedule
            or any(block != PhaseConfig() for block in blocks)
        )
