"""The shell of a page that asks for nothing from anywhere, and whose policy lets nothing run but its own scripts."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from ..journal.strict_json import dumps
from ..journal.tables import printable


def text(value: object) -> str:
    """Return a value as HTML text: escaped, control characters shown and not obeyed."""
    return html.escape(printable(str(value)), quote=True)


def asset(name: str) -> str:
    """Return a script, style or licence that comes with the package."""
    return files(__package__).joinpath("assets").joinpath(name).read_text(encoding="utf-8")


def page(title: str, body: str, data: Any, scripts: Sequence[str], style: str) -> str:
    """Return a whole page.

    Args:
        title: escaped here.
        body: HTML below the title.
        data: plain values that the scripts find, as JSON, in the element ``data``.
        scripts: run in this order after the body.
        style: CSS.
    """
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_source_hash, scripts))}",
            f"style-src {_source_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    # JSON that cannot end the element it stands in; it is ASCII, so U+2028 and U+2029 are escapes in it.
    json_text = dumps(data, separators=(",", ":"))
    json_text = json_text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{text(title)}</h1>
{body}
<script type="application/json" id="data">{json_text}</script>
{chr(10).join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def _source_hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
