"""Whether a network keeps the documents of one row apart: each has to come out as it does alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...errors import first_line
from .moves import differ

_FIRST, _SECOND, _PADDING = 4, 5, 2  # shorter than the windows of tiny networks, which are asked about elsewhere

Hidden = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""From (1, L) ids, and (1, L) which document each is of, to (1, L, D) hidden states."""


@torch.no_grad()
def why_not_apart(hidden: Hidden, ids_1L: torch.Tensor) -> str | None:
    """Return why documents of one row are something else than alone, as a clause; None where they are not.

    Args:
        hidden: of a tiny network, its weights so large that what can be read moves.
        ids_1L: at least nine tokens.
    """
    first_1F, second_1S = ids_1L[:, :_FIRST], ids_1L[:, _FIRST : _FIRST + _SECOND]
    row_1L = torch.cat([first_1F, second_1S, ids_1L[:, :_PADDING]], dim=1)
    numbers_1L = torch.tensor([[1] * _FIRST + [2] * _SECOND + [0] * _PADDING])
    try:
        found_1LD = hidden(row_1L, numbers_1L)
        alone = [hidden(part, None) for part in (first_1F, second_1S)]
    except Exception as error:  # another library's code, called as it may never have been
        return f"it does not run so ({type(error).__name__}: {first_line(error).split(';')[0].rstrip('.')})"
    for part, place in zip(alone, (slice(0, _FIRST), slice(_FIRST, _FIRST + _SECOND)), strict=True):
        if differ(part, found_1LD[:, place]):
            return "a document that shares its row gives something else than alone"
    return None
