"""What the libraries below say of bad settings, as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import UserError

# The Hub's client has changed what it speaks HTTP with more than once, and passes the errors of that on.
_OF_THE_HUB = frozenset({"huggingface_hub", "httpx", "httpx2", "requests"})


@contextmanager
def complaints_about(what: str, advice: str) -> Iterator[None]:
    """Around a call whose only reason to fail is what the user gave.

    Args:
        what: begins the sentence: what does not work.
        advice: ends it: what to do.

    Raises:
        UserError: in place of the errors that libraries raise on bad settings, and of those of the Hub and the network.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if type(error).__module__.partition(".")[0] in _OF_THE_HUB:
            raise UserError(
                f"the Hub does not answer as it should ({lines[0].rstrip('.')}); check the network and your token "
                "(`hf auth login`), or leave out what needs the Hub, e.g. push_to_hub"
            ) from error
        if not isinstance(error, (ValueError, TypeError, ImportError, RuntimeError)):
            raise
        raise UserError(f"{what}: {lines[0].rstrip('.')}; {advice}") from error
