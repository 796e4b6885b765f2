"""A gate: a check that a stage must pass to be called done. One type, one report, exit code 4."""

from __future__ import annotations

from pydantic import Field

from phiforge.core.config import Config
from phiforge.core.errors import GateFailed


class Check(Config):
    """One measured value against its limit."""

    name: str = Field(description="what was checked")
    value: float | int | str | None = Field(default=None, description="what was measured; none where nothing could be")
    limit: str = Field(default="", description="the rule, as a person reads it: '<= 1e-3', 'equal'")
    passed: bool = Field(description="whether the value keeps the rule")
    note: str = Field(default="", description="where it failed, or what it means")

    def line(self) -> str:
        """The check in one line: name, value, limit."""
        shown = f"{self.value:.3g}" if isinstance(self.value, float) else self.value
        parts = [self.name] + ([f"= {shown}"] if shown is not None else []) + ([f"(must be {self.limit})"] if self.limit else [])
        return " ".join(parts) + (f": {self.note}" if self.note else "")


class GateReport(Config):
    """What a gate found."""

    gate: str = Field(description="name of the gate: parity, theater, quality")
    checks: list[Check] = Field(description="every check made, passed or not")
    note: str = Field(default="", description="what the gate compared")

    @property
    def passed(self) -> bool:
        """True when there was something to check and every check passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def require(self) -> None:
        """Raise GateFailed, naming the checks that failed."""
        if not self.passed:
            failed = "; ".join(check.line() for check in self.checks if not check.passed) or "nothing was checked"
            raise GateFailed(f"the {self.gate} gate failed: {failed}")
