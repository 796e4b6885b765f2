"""The schedules of a training config. The table itself is pure and lives in golden/schedules.py; here it meets TrainConfig's names."""

from __future__ import annotations

from phiforge.golden.schedules import ALIASES, SCHEDULES, WARMUPS, Row, Schedule, canonical, match_mean_rate, schedule, warmup_length

__all__ = ["ALIASES", "SCHEDULES", "WARMUPS", "Row", "Schedule", "canonical", "match_mean_rate", "schedule", "warmup_length"]
