"""Runs whose tokenizer does not give the evaluation text back: why they have no bits per byte."""

from __future__ import annotations

from ..journal.run import Run


def lossy_note(run: Run, name: str) -> str | None:
    """Return what the log of a run says of its tokenizer, as a sentence; None where nothing is lost, or nothing said."""
    found = run.header.data.get("round_trip")
    if not isinstance(found, dict) or not isinstance(found.get("changed"), int):
        return None
    share = found.get("unknown_share")
    unknown = f"; {share:.1%} of its tokens are unknown" if isinstance(share, float) else ""
    return (
        f"{name} has no bits/byte: its tokenizer does not give back {found['changed']:,} of {found.get('documents'):,} "
        f"evaluation documents{unknown}."
    )
