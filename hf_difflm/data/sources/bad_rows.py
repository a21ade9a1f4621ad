"""Rows that cannot be used: counted, the first few listed with file and line, left out where that is asked for."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow.compute as pc

from hf_difflm.errors import UserError

from ..sentences import plural

logger = logging.getLogger(__name__)

BAD = "bad"
"""Column that says why a row cannot be used; null where it can."""
HOPELESS = 100
"""So many bad rows before the first good one are no matter of single rows."""
_LISTED = 5


def without_bad(dataset: datasets.Dataset) -> tuple[datasets.Dataset, list[str]]:
    """Return the rows that can be used, without the column :data:`BAD`, and why the others cannot."""
    column = dataset.data.column(BAD)
    good = pc.is_null(column).to_numpy()
    rows = dataset.remove_columns(BAD)
    if good.all():
        return rows, []
    return rows.select(np.flatnonzero(good)), pc.drop_null(column).to_pylist()


def judge(reasons: list[str], num_good: int, name: str, skip: bool) -> str:
    """Return a note on the bad rows of a data set; empty where there is none.

    Raises:
        UserError: there are some, and nobody asked to leave them out; or nothing else is there.
    """
    if not reasons:
        return ""
    if num_good == 0:
        raise UserError(reasons[0])
    listed = "; ".join(reason.partition(": ")[0] if len(reasons) > 1 else reason for reason in reasons[:_LISTED])
    more = f"; and {len(reasons) - _LISTED:,} more" if len(reasons) > _LISTED else ""
    if not skip:
        if len(reasons) == 1:
            raise UserError(f"{reasons[0]}, or leave such rows out by skip_bad_rows")
        raise UserError(
            f"{plural(len(reasons), 'row')} of {name} cannot be used: {listed}{more}; repair them, or leave them out by "
            "skip_bad_rows"
        )
    return f"left out {plural(len(reasons), 'bad row')} of {name}: {listed}{more}"


@dataclass
class SkippedRows:
    """What a stream leaves out: told row by row for the first few, then each time they are ten times as many; once a row.

    Attributes:
        name: of the data set.
        skip: whether such rows are left out at all.
        what: they are.
        count: how many so far.
    """

    name: str
    skip: bool
    what: str = "bad row"
    count: int = 0
    furthest: tuple[int, int] = (0, -1)

    def meet(self, error: UserError, place: tuple[int, int]) -> None:
        """Count a bad row, where it was not met before; ``place`` grows with each row of a pass.

        Raises:
            UserError: nobody asked to leave such rows out.
        """
        if not self.skip:
            raise UserError(f"{error}, or leave such rows out by skip_bad_rows") from error
        if place <= self.furthest:
            return
        self.furthest = place
        self.count += 1
        if self.count <= _LISTED:
            logger.warning("left out a %s: %s", self.what, error)
        elif self.count in (10**power for power in range(1, 12)):
            logger.warning("left out %s %ss of %s so far", f"{self.count:,}", self.what, self.name)
