"""Every mistake a user can make, as a class with an exit code. Anything else that escapes is a bug and shows as one."""


class PhiforgeError(Exception):
    """A failure that is explained in one line: what is wrong, and the way out.

    `what` names the value and the rule it breaks; `fix` says what to do. Both are folded to one line.
    """

    exit_code = 1

    def __init__(self, what: str, *, fix: str = "") -> None:
        self.what = " ".join(what.split())
        self.fix = " ".join(fix.split())
        super().__init__(self.what + (f" -> {self.fix}" if self.fix else ""))


class RunError(PhiforgeError):
    """A run folder is missing, damaged or of a newer schema."""

    exit_code = 2


class FolderInUse(PhiforgeError):
    """Another process works in the run folder now."""


class ConfigError(PhiforgeError):
    """Bad arguments or configuration."""

    exit_code = 2


class DataError(PhiforgeError):
    """Bad input data; the message names the file and the line or byte."""

    exit_code = 2


class PreflightError(PhiforgeError):
    """The work was refused before it began: it would not fit, or may not be written."""

    exit_code = 3


class GateFailed(PhiforgeError):
    """A check that the stage must pass to be called done has failed."""

    exit_code = 4


class Interrupted(PhiforgeError):
    """Stopped by the user; what was done is saved."""

    exit_code = 130
