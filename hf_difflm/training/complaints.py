"""What the libraries below say of bad settings, as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UserError


@contextmanager
def complaints_about(what: str, advice: str) -> Iterator[None]:
    """Around a call whose only reason to fail is what the user gave.

    Args:
        what: begins the sentence: what does not work.
        advice: ends it: what to do.

    Raises:
        UserError: in place of the errors that libraries raise on bad settings.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{what}: {lines[0].rstrip('.')}; {advice}") from error
