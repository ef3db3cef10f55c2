"""What a run has come to, beside its state: the part of a checkpoint's record that changes while it trains."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Best:
    """The step that is the best so far on the validation split: by its accuracy there, and among equals by its negative log-likelihood.

    Of a hundred faces, as CK+'s split has, the accuracy alone would take the first that is right for nearly all, long before the end.
    """

    step: int
    accuracy: float
    nll: float = 0.0  # nats; where an earlier record has none, no equal takes its place

    def beats(self, other: 'Best | None') -> bool:
        """Whether it takes the other's place."""
        return other is None or (self.accuracy, -self.nll) > (other.accuracy, -other.nll)


@dataclasses.dataclass
class History:
    """How far a run has come, and what happened on the way."""

    starts: int = 0
    seconds: float = 0.0  # of training, up to the last save, in all starts
    runs_at_once: int = 1  # that shared its program
    rollbacks: int = 0
    failed_saves: int = 0
    best: Best | None = None
    pending: dict[str, list[Any]] = dataclasses.field(default_factory=dict)  # each metric, call by call, since the last line of the log
    init_from: dict[str, Any] | None = None  # what was loaded at the first start

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> 'History':
        """What `to_record` once gave, out of a checkpoint's record; what it lacks keeps its default."""
        known = {field.name: record[field.name] for field in dataclasses.fields(cls) if field.name in record}
        return cls(**known | {'best': Best(**record['best']) if record.get('best') else None})

    def to_record(self) -> dict[str, Any]:
        """All of it as JSON has it, in a copy; `pending` must be on the host."""
        return dataclasses.asdict(self)
