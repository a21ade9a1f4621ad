"""A generation as one self-contained page, with a slider over its steps: it asks for nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runs.files import write_text
from ..runs.strict_json import dumps
from ..runs.tables import printable
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
    samples = [
        {"prompt": frames[0][0].start.prompts[frames[0][1]], "frames": _frames(frames, text), "number": row + 1}
        for row, frames in sorted(recorder.by_text.items())
    ]
    page = _page(title, samples, facts)
    try:
        write_text(path, page.encode("utf-8", "replace").decode("utf-8"))  # a lone surrogate has no UTF-8
    except OSError as error:
        raise UserError(f"the page {str(path)!r} cannot be written ({error.strerror}); name another --html") from error
    return path


def _frames(seen: Sequence[tuple[Frame, int]], text: TokenText) -> list[dict[str, Any]]:
    stride = -(-len(seen) // MOST_FRAMES)
    kept = [*seen[:-1:stride], seen[-1]]
    return [_frame(frame, place, text) for frame, place in kept]


def _frame(frame: Frame, place: int, text: TokenText) -> dict[str, Any]:
    done, total = frame.progress(place)
    runs = [(printable(piece), state) for piece, state in text.runs(frame.ids_BL[place], frame.state_BL[place])]
    return {"step": frame.number, "done": done, "total": total, "final": frame.final, "runs": runs}


def _page(title: str, samples: Sequence[dict[str, Any]], facts: Mapping[str, Any]) -> str:
    script, style = _asset("denoising.js"), _asset("report.css") + _asset("denoising.css")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_source_hash(script)}",
            f"style-src {_source_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    # JSON that cannot end the element it stands in.
    data = dumps([{"frames": sample["frames"]} for sample in samples], separators=(",", ":"))
    data = data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    rows = "\n".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{_text(title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{_text(title)}</h1>
<div class="tools">
<button type="button" id="play">play</button>
<label>draft <input type="range" id="frame" min="0" value="0"></label><output id="where"></output>
<label>drafts a second <select id="speed"><option>2</option><option>5</option><option selected>15</option>
<option>30</option><option>60</option></select></label>
</div>
<p class="legend"><span class="given">given</span><span class="masked">▒ masked</span>
<span class="new">just written</span><span class="settled">settled</span></p>
<noscript><p>The slider needs JavaScript; below are the results.</p></noscript>
<main class="texts">
{chr(10).join(_section(place, sample) for place, sample in enumerate(samples))}
</main>
<table class="facts">{rows}</table>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def _section(place: int, sample: dict[str, Any]) -> str:
    result = _text("".join(piece for piece, _ in sample["frames"][-1]["runs"]))
    return (
        f'<section class="sample"><h2>sample {sample["number"]} <span class="soft" id="count-{place}"></span></h2>'
        f'<pre class="canvas">{result}</pre></section>'
    )


def _text(value: object) -> str:
    return html.escape(printable(str(value)), quote=True)


def _source_hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files("hf_difflm.runs").joinpath("assets").joinpath(name).read_text(encoding="utf-8")
