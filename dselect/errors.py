"""What can go wrong in a way that the user can mend."""

from __future__ import annotations


class DselectError(Exception):
    """Something the user can fix: where it happened, what was found, the way out.

    Printed once, on one line, at the edge of the program: `dselect: WHERE: WHAT (WAY OUT)`.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, way_out: str | None = None) -> None:
        super().__init__(what, where, way_out)
        self.what, self.where, self.way_out = what, where, way_out

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.way_out:
            line = f"{line} ({self.way_out})"
        return " ".join(line.splitlines())

    def __reduce__(self) -> tuple[object, ...]:
        """Travel from a worker process to the parent with all three parts."""
        return _rebuild, (type(self), self.what, self.where, self.way_out)


class UsageError(DselectError):
    """The options contradict each other or do not parse: exit code 2."""

    exit_code = 2


class OutputIsInput(DselectError):  # noqa: N818  what it says is wrong
    """Standard output is a file that would be read: nothing may be written there, no sign of failure either."""


class NotFitted(DselectError):  # noqa: N818  scikit-learn's word
    """A model was asked for scores before it had been fitted or loaded."""


def _rebuild(kind: type[DselectError], what: str, where: str | None, way_out: str | None) -> DselectError:
    return kind(what, where=where, way_out=way_out)
