"""Corrupt records: each named once and counted; too large a share of them ends the run."""

import logging
from typing import NamedTuple

log = logging.getLogger(__name__)

# A share is judged against at least so many records (or the whole data set, if smaller), so that
# one bad file among the first ten does not read as ten per cent.
MIN_TRIED = 1000


class Failure(NamedTuple):
    """A record that could not be decoded."""

    record: int
    name: str
    reason: str


class CorruptDataError(ValueError):
    """More corrupt records than allowed; the message holds the counts and every name."""


class CorruptRecords:
    """Distinct corrupt records among those that one process has tried.

    Every process counts what it reads itself: without communication its share of the records is
    a fair sample of all of them.

    Args:
      num_records: records in the data set.
      max_share: the run ends when more than this share is corrupt: of the data set or, when it
        holds more than 1,000 records, of the records tried so far (taken as at least 1,000). A
        single corrupt record never ends a run, unless the share is 0.
    """

    def __init__(self, num_records: int, max_share: float):
        if not 0 <= max_share <= 1:
            raise ValueError(f"max_corrupt_share is {max_share}, not a share in [0, 1]")
        self.num_records = num_records
        self.max_share = max_share
        self.tried = 0  # examples drawn; within the first epoch all are distinct records
        self.skipped = 0  # attempts that failed, repeated ones included
        self.names: dict[int, str] = {}

    def add(self, failures: list[Failure], tried: int) -> None:
        """Counts `tried` further examples and their `failures`.

        Raises:
          CorruptDataError: more than the allowed share is corrupt.
        """
        self.tried += tried
        self.skipped += len(failures)
        for record, name, reason in failures:
            if record not in self.names:
                self.names[record] = name
                log.warning("corrupt image skipped: %s (%s)", name, reason)
        distinct = min(self.num_records, max(self.tried, MIN_TRIED))
        allowed = self.max_share * distinct
        if self.max_share > 0:
            allowed = max(allowed, 1)
        if len(self.names) > allowed:
            raise CorruptDataError(
                f"{len(self.names)} of {min(self.tried, self.num_records)} records tried (data set:"
                f" {self.num_records}) are corrupt; max_corrupt_share={self.max_share} allows"
                f" {int(allowed)}: {self.listing()}"
            )

    def listing(self) -> str:
        """Every corrupt record's name, comma separated."""
        return ", ".join(self.names.values())

    def get_state(self) -> dict:
        """The counts as JSON types."""
        names = {str(record): name for record, name in self.names.items()}
        return {"tried": self.tried, "skipped": self.skipped, "names": names}

    def set_state(self, state: dict) -> None:
        """Continues from `get_state`; records named before are not named again."""
        self.tried = state["tried"]
        self.skipped = state["skipped"]
        self.names = {int(record): name for record, name in state["names"].items()}
