"""What a campaign found, and its record."""

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass
class Findings:
    """What one campaign did and found."""

    tried: int = 0  # faults injected, or inputs read
    wrong: list[str] = dataclasses.field(default_factory=list)  # what did not hold, one line each; empty where all held
    told: dict[str, Any] = dataclasses.field(default_factory=dict)  # counts by kind and other figures, for the record

    def check(self, holds: bool, otherwise: str | Callable[[], str]) -> None:
        """Notes `otherwise` as wrong unless `holds`."""
        if not holds:
            self.wrong.append(otherwise if isinstance(otherwise, str) else otherwise())

    def count(self, kind: str, times: int = 1) -> None:
        """Adds to the count of a kind of fault, and to all tried."""
        self.tried += times
        self.note(kind, times)

    def note(self, kind: str, times: int = 1) -> None:
        """Adds to a count that is not of what was tried."""
        self.told[kind] = self.told.get(kind, 0) + times
