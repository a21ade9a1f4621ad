"""A Hub for the tests: each gets a fresh one on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loopback import LoopbackHub, start_loopback_hub


@pytest.fixture
def loopback_hub() -> Iterator[LoopbackHub]:
    """A running :class:`LoopbackHub` with no repositories."""
    server = start_loopback_hub()
    yield server
    server.shutdown()
    server.server_close()
