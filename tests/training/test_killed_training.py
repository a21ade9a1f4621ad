"""A real training that is killed and resumed leaves the log of one that was left alone."""

from __future__ import annotations

import pytest
from torture_run_log import torture


@pytest.mark.slow
def test_three_kills_leave_no_trace_in_the_log(tmp_path):
    torture(tmp_path, kills=3)
