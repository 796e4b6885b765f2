"""The names that the document gives: PHITrainingConfig and the PHI* schedulers, thin over the pure functions of this package.

    config = PHITrainingConfig(base_learning_rate=2e-4, lr_schedule_mode="phi_decay")
    PHILearningRateScheduler(config).at(0.5), PHIBatchScheduler(config).at(0.5), PHIRegularizationScheduler(config).at(0.5)

Each scheduler is a function of progress p in [0, 1], and of the optimizer step once it is bound to a run's timetable.
"""

from __future__ import annotations

from argparse import Namespace
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from typing import Any, Self

import numpy as np
from pydantic import Field, field_validator

from phiforge.core.config import ALIASES, Config, build, nearest
from phiforge.core.errors import ConfigError
from phiforge.core.seeds import derive
from phiforge.golden.batch import batch_shares, batch_sizes, phi_batch_size
from phiforge.golden.config import Focus, PhiConfig
from phiforge.golden.regularize import dropout_value, weight_decay_value
from phiforge.golden.sampling import WeightedDraw, sampling_weights
from phiforge.golden.schedules import SCHEDULES, canonical, schedule
from phiforge.golden.timetable import Timetable

PHI_WARMUP_RATIO = 0.1  # of lr_schedule_mode="phi_warmup", where no warm-up is given: the document's baseline has it
_FINE = 1 << 20  # units in which a schedule is read at a progress


class _Bases(Config):
    """The fields of PHITrainingConfig that are TrainConfig's under another name."""

    base_learning_rate: float = Field(gt=0, le=10)
    lr_schedule_mode: str
    base_batch_size: int = Field(ge=1, le=1 << 20)
    base_weight_decay: float = Field(ge=0)
    base_dropout: float = Field(ge=0, lt=1)
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1)

    @field_validator("lr_schedule_mode")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return canonical(value)
        except ConfigError as error:
            raise ValueError(error.what.removeprefix("lr_scheduler_type=")) from None


@dataclass(frozen=True)
class PHITrainingConfig:
    """The document's training config: its fields, its defaults. Frozen; dataclasses.replace makes a changed one.

    lr_schedule_mode: phi_decay, phi_warmup, phi_cosine, or any name of the table of schedules (docs/methods.md). The dropout and weight
    decay schedules also take "cyclic". Raises ConfigError, in one line, for a value that can't be.
    """

    base_learning_rate: float = 2e-4
    lr_schedule_mode: str = "phi_decay"
    phi_lr_power: float = 1.0
    base_batch_size: int = 8
    phi_batch_progression: bool = True
    max_batch_size: int = 128
    batch_phi_phases: int = 3
    phi_training_phases: bool = True
    phase1_focus: str = "exploration"
    phase2_focus: str = "exploitation"
    base_dropout: float = 0.1
    phi_dropout_schedule: bool | str = True
    base_weight_decay: float = 0.01
    phi_weight_decay_schedule: bool | str = True

    def __post_init__(self) -> None:
        bases, phi = self._split()
        checked = (
            build(_Bases, bases, where="PHITrainingConfig").model_dump() | build(PhiConfig, phi, where="PHITrainingConfig").model_dump()
        )
        for name in (f.name for f in fields(self)):
            if not isinstance(getattr(self, name), Mapping):
                object.__setattr__(self, name, checked[name])

    @classmethod
    def from_args(cls, args: Namespace | Mapping[str, Any]) -> PHITrainingConfig:
        """From a script's parsed arguments, or from plain data.

        Of a Namespace, what is not ours is left alone (a script has other arguments) and None means the default. In plain data an unknown
        key is a ConfigError. transformers' names (learning_rate, per_device_train_batch_size, weight_decay, lr_scheduler_type) are taken
        too; with any setting of PHIExtendedConfig the result is one.
        """
        strict = not isinstance(args, Namespace)
        given = {str(key).replace("-", "_"): value for key, value in (args if isinstance(args, Mapping) else vars(args)).items()}
        known = {f.name for f in fields(PHIExtendedConfig)}
        settings: dict[str, Any] = {}
        for key, value in given.items():
            name = key if key in known else _OWN_NAMES.get(ALIASES.get(key, key), key)
            if name not in known:
                if strict:
                    raise ConfigError(f"PHITrainingConfig: unknown key {key!r}; {nearest(key, known)}")
                continue
            if value is None and not strict:
                continue
            if settings.get(name, value) != value:
                raise ConfigError(f"PHITrainingConfig: {name} is given twice, as {settings[name]} and as {value}", fix="keep one of them")
            settings[name] = value
        own = {f.name for f in fields(cls)}
        return (cls if set(settings) <= own else PHIExtendedConfig)(**settings)

    def phi(self) -> PhiConfig:
        """The golden switches, as TrainConfig has them under `phi`."""
        return build(PhiConfig, self._split()[1], where="PHITrainingConfig")

    def to_settings(self) -> dict[str, Any]:
        """The same as settings of a training stage (TrainConfig's names; golden ones under `phi`)."""
        settings: dict[str, Any] = {
            "learning_rate": self.base_learning_rate,
            "lr_scheduler_type": self.lr_schedule_mode,
            "per_device_train_batch_size": self.base_batch_size,
            "weight_decay": self.base_weight_decay,
            "phi": self.phi().model_dump(mode="json", exclude_unset=True),
        }
        return settings if self.warmup is None else settings | {"warmup_ratio": self.warmup}

    @property
    def warmup(self) -> float | None:
        """Fraction of the run that warms up; None = not said (then a run's own setting holds)."""
        own = asdict(self).get("warmup_ratio")
        return PHI_WARMUP_RATIO if own is None and SCHEDULES[self.lr_schedule_mode].head == "phi" else own

    def _split(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What _Bases checks, and what PhiConfig does."""
        values = asdict(self)
        return {k: v for k, v in values.items() if k in _Bases.model_fields}, {
            k: v for k, v in values.items() if k in PhiConfig.model_fields
        }


@dataclass(frozen=True)
class PHIExtendedConfig(PHITrainingConfig):
    """PHITrainingConfig with the golden settings that the document does not name: PhiConfig's, and the fraction that warms up."""

    warmup_ratio: float | None = field(default=None, kw_only=True)
    lr_cycles: int | None = field(default=None, kw_only=True)
    phase1: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    phase2: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    sampling: str = field(default="golden", kw_only=True)
    sampling_replacement: bool = field(default=False, kw_only=True)
    difficulty: str = field(default="unigram", kw_only=True)


# transformers' names -> the document's
_OWN_NAMES = {
    "learning_rate": "base_learning_rate",
    "lr_scheduler_type": "lr_schedule_mode",
    "per_device_train_batch_size": "base_batch_size",
    "weight_decay": "base_weight_decay",
}


class PHIScheduler:
    """Base of the schedulers: one setting of a run, from a PHITrainingConfig, over progress.

    `at(progress)` is the closed form; `at_step(step)` what the run that it is bound to does at that optimizer step (0-based).
    """

    def __init__(self, phi_config: PHITrainingConfig) -> None:
        self.config = phi_config
        self.timetable: Timetable | None = None

    def bind(self, timetable: Timetable) -> Self:
        """Tie it to a run's plan, for `at_step`."""
        self.timetable = timetable
        return self

    def at(self, progress: float) -> Any:
        """The value at progress p = tokens seen / tokens planned."""
        raise NotImplementedError

    def at_step(self, step: int) -> Any:
        """The value at an optimizer step of the run. Raises ConfigError where no run is bound."""
        return self._read(self._plan(), step)

    def _read(self, plan: Timetable, step: int) -> Any:
        raise NotImplementedError

    def _plan(self) -> Timetable:
        if self.timetable is None:
            raise ConfigError(f"{type(self).__name__} is not bound to a run", fix="at(progress), or bind(timetable) first")
        return self.timetable


class PHILearningRateScheduler(PHIScheduler):
    """The learning rate itself (not its multiplier).

    >>> rate = PHILearningRateScheduler(PHITrainingConfig(base_learning_rate=2e-4))
    >>> round(rate.at(0.0), 8), round(rate.get_lr(10, 10), 8)
    (0.0002, 0.00012361)
    """

    def __init__(self, phi_config: PHITrainingConfig) -> None:
        super().__init__(phi_config)
        phi, name = phi_config.phi(), phi_config.lr_schedule_mode
        settings = {"power": phi.phi_lr_power, "cycles": phi.lr_cycles}
        own: dict[str, Any] = {key: value for key, value in settings.items() if key in SCHEDULES[name].parameters and value is not None}
        self._rate = schedule(name, _FINE, warmup=(phi_config.warmup or 0.0) * _FINE, **own)

    def at(self, progress: float) -> float:
        """base_learning_rate times the schedule at progress p; a phase's own schedule counts only in a run (`at_step`)."""
        return self.config.base_learning_rate * self._rate(progress * _FINE)

    def get_lr(self, epoch: float, total_epochs: float) -> float:
        """The same after `epoch` of `total_epochs`; both may be fractions."""
        if total_epochs <= 0 or not 0 <= epoch <= total_epochs:
            raise ConfigError(f"epoch={epoch} is outside 0 to total_epochs={total_epochs}")
        return self.at(epoch / total_epochs)

    def _read(self, plan: Timetable, step: int) -> float:
        return plan.learning_rate_at(step)


class PHIBatchScheduler(PHIScheduler):
    """Rows in one optimizer step.

    >>> batch = PHIBatchScheduler(PHITrainingConfig())
    >>> batch.sizes, [batch.at(p) for p in (0.0, 0.38, 0.39, 0.7, 1.0)]
    ([8, 12, 20], [8, 8, 12, 20, 20])
    """

    def __init__(self, phi_config: PHITrainingConfig) -> None:
        super().__init__(phi_config)
        phases = phi_config.batch_phi_phases if phi_config.phi_batch_progression else 1
        cap = phi_config.max_batch_size if phi_config.phi_batch_progression else None
        self.sizes = batch_sizes(phi_config.base_batch_size, phases, cap)
        self._starts = [0.0, *accumulate(batch_shares(phases)[:-1])]

    def phase_at(self, progress: float) -> int:
        """Batch phase, 0, 1, ..., at progress p."""
        return bisect_right(self._starts, progress) - 1

    def get_batch_size(self, phase: int) -> int:
        """Rows in batch phase `phase`, under the config's cap."""
        return phi_batch_size(self.config.base_batch_size, phase, self.config.max_batch_size)

    def at(self, progress: float) -> int:
        """Rows at progress p."""
        return self.sizes[self.phase_at(progress)]

    def _read(self, plan: Timetable, step: int) -> int:
        return plan.batch(step)


class PHIRegularizationScheduler(PHIScheduler):
    """Dropout and weight decay.

    >>> regularization = PHIRegularizationScheduler(PHITrainingConfig())
    >>> {name: round(value, 6) for name, value in regularization.at(1.0).items()}
    {'dropout': 0.061803, 'weight_decay': 0.01618}
    """

    def __init__(self, phi_config: PHITrainingConfig) -> None:
        super().__init__(phi_config)
        self._phi = phi_config.phi()

    def dropout(self, progress: float) -> float:
        """Dropout at progress p."""
        return dropout_value(self.config.base_dropout, progress, self._phi.phi_dropout_schedule)

    def weight_decay(self, progress: float) -> float:
        """Weight decay at progress p."""
        return weight_decay_value(self.config.base_weight_decay, progress, self._phi.phi_weight_decay_schedule)

    def at(self, progress: float) -> dict[str, float]:
        """Both, by name."""
        return {"dropout": self.dropout(progress), "weight_decay": self.weight_decay(progress)}

    def _read(self, plan: Timetable, step: int) -> dict[str, float]:
        return {"dropout": plan.dropout_at(step), "weight_decay": plan.weight_decay_at(step)}


class PHIDataSampler(PHIScheduler):
    """Which rows come next: uniform in exploration, by difficulty in exploitation.

    With difficulties it is a sampler as torch's DataLoader takes one: it yields the n row indices of the epoch and focus that `set_epoch`
    named last (exploitation, epoch 0 before that).

    >>> sampler = PHIDataSampler(PHITrainingConfig(), difficulty=[0.3, 0.1, 0.2], seed=1)
    >>> sorted(sampler), len(sampler), [round(float(weight), 3) for weight in sampler.weights()]
    ([0, 1, 2], 3, [0.388, 0.282, 0.33])
    """

    def __init__(self, phi_config: PHITrainingConfig, difficulty: Sequence[float] | np.ndarray | None = None, *, seed: int = 0) -> None:
        super().__init__(phi_config)
        self._phi, self.seed = phi_config.phi(), seed
        self.difficulty = None if difficulty is None else np.asarray(difficulty, np.float64)
        self.epoch, self.focus = 0, "exploitation"

    def at(self, progress: float) -> Focus:
        """The focus at progress p."""
        if not self._phi.phi_training_phases:
            return "exploration"
        return self._phi.phase1_focus if progress < batch_shares(2)[0] else self._phi.phase2_focus

    def weights(self) -> np.ndarray:
        """(n,) float64 that sum to 1: how likely each row is drawn in exploitation."""
        return sampling_weights(self._difficulty(), self._phi.sampling)

    def draws(self, *, first: int = 0, rows: int | None = None, epoch: int = 0) -> WeightedDraw:
        """The draws of an exploitation stretch of a run: `rows` rows from row `first` of the run on."""
        return WeightedDraw(self.weights(), seed=self.seed, first=first, rows=rows, epoch=epoch, replacement=self._phi.sampling_replacement)

    def set_epoch(self, epoch: int, focus: Focus | None = None) -> None:
        """What iteration yields from now on."""
        self.epoch, self.focus = epoch, focus or self.focus

    def __iter__(self) -> Iterator[int]:
        n = len(self)
        if self.focus == "exploration":
            return iter(np.random.default_rng(derive(self.seed, "order", self.epoch)).permutation(n).tolist())
        return iter(self.draws(epoch=self.epoch).in_pass(0).tolist())

    def __len__(self) -> int:
        return len(self._difficulty())

    def _read(self, plan: Timetable, step: int) -> Focus:
        return plan.focus(step)

    def _difficulty(self) -> np.ndarray:
        if self.difficulty is None:
            raise ConfigError("PHIDataSampler has no difficulties", fix="PHIDataSampler(config, difficulty=[one number for each row])")
        return self.difficulty
