"""A generation as one self-contained page, with a slider over its steps: it asks for nothing from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...runs.journal.atomic_files import write_page
from ...runs.journal.tables import printable
from ...runs.pages.self_contained import asset, page
from ...runs.pages.self_contained import text as text_of
from .denoising_frames import Frame, TokenText

MOST_FRAMES = 400
"""Frames of a text on the page; of more the page has every second, every third and so on, first and last always."""


@dataclass
class FrameRecorder:
    """Keeps the frames of texts, by the number of each text."""

    by_text: dict[int, list[tuple[Frame, int]]] = field(default_factory=dict)

    def __call__(self, frame: Frame) -> None:
        for place, row in enumerate(frame.start.rows):
            self.by_text.setdefault(row, []).append((frame, place))


def write_denoising_page(
    recorder: FrameRecorder, text: TokenText, path: str | Path, *, title: str, facts: Mapping[str, Any]
) -> Path:
    """Write the page and return its path.

    Text is escaped, control characters are shown and not obeyed, and the page's own policy forbids every request and
    every script but its own.

    Args:
        recorder: what was seen of each text.
        text: the text of tokens.
        path: the file, replaced in one step.
        title: of the page.
        facts: how the texts were made, shown as a table.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    samples = [{"frames": _frames(frames, text), "number": row + 1} for row, frames in sorted(recorder.by_text.items())]
    data = [{"frames": sample["frames"]} for sample in samples]
    has_masks = any(frames[0][0].start.mask_id is not None for frames in recorder.by_text.values())
    style = asset("report.css") + asset("denoising.css")
    write_page(path, page(title, _body(samples, facts, has_masks), data, [asset("denoising.js")], style), "--html")
    return path


def check_page(path: str | Path) -> None:
    """Find out, before anything is generated, whether a page can stand there.

    Raises:
        UserError: there is a folder, or a file where a folder would have to be.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"the page {str(path)!r} cannot be written (Is a directory); name another --html")
    if any(parent.is_file() for parent in path.parents):
        raise UserError(f"the page {str(path)!r} cannot be written (Not a directory); name another --html")


def _frames(seen: Sequence[tuple[Frame, int]], text: TokenText) -> list[dict[str, Any]]:
    stride = -(-len(seen) // MOST_FRAMES)
    kept = [*seen[:-1:stride], seen[-1]]
    return [_frame(frame, place, text) for frame, place in kept]


def _frame(frame: Frame, place: int, text: TokenText) -> dict[str, Any]:
    done, total = frame.progress(place)
    runs = [(printable(piece), state) for piece, state in text.runs(frame.ids_BL[place], frame.state_BL[place])]
    return {"step": frame.number, "done": done, "total": total, "final": frame.final, "runs": runs}


def _body(samples: Sequence[dict[str, Any]], facts: Mapping[str, Any], has_masks: bool) -> str:
    masked = '<span class="masked">▒ masked</span>\n' if has_masks else ""  # a causal LM has none
    rows = "\n".join(f"<tr><th>{text_of(name)}</th><td>{text_of(value)}</td></tr>" for name, value in facts.items())
    return f"""<div class="tools">
<button type="button" id="play">play</button>
<label>draft <input type="range" id="frame" min="0" value="0"></label><output id="where"></output>
<label>drafts a second <select id="speed"><option>2</option><option>5</option><option selected>15</option>
<option>30</option><option>60</option></select></label>
</div>
<p class="legend"><span class="given">given</span>{masked}<span class="new">just written</span>
<span class="settled">settled</span></p>
<noscript><p>The slider needs JavaScript; below are the results.</p></noscript>
<main class="texts">
{chr(10).join(_section(place, sample) for place, sample in enumerate(samples))}
</main>
<table class="facts">{rows}</table>"""


def _section(place: int, sample: dict[str, Any]) -> str:
    result = text_of("".join(piece for piece, _ in sample["frames"][-1]["runs"]))
    return (
        f'<section class="sample"><h2>sample {sample["number"]} <span class="soft" id="count-{place}"></span></h2>'
        f'<pre class="canvas">{result}</pre></section>'
    )
