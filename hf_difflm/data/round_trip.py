"""Whether a tokenizer gives text back: decode(encode(text)) == text, document by document, and how many tokens are unknown.

What cannot be given back was never modelled - capitals, accents, words that are one unknown token - so bits per byte of it
would be a number of another, easier text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa

from .caching import cached_map, code_digest
from .encoding import DocumentEncoder
from .sentences import plural

_FEATURES = datasets.Features({name: datasets.Value("int64") for name in ("changed", "tokens", "unknown")})


@dataclass(frozen=True)
class RoundTrip:
    """What became of some documents on the way to tokens and back.

    Attributes:
        documents: how many.
        changed: how many of them came back as another text.
        tokens: of all.
        unknown: how many tokens are the unknown token.
    """

    documents: int
    changed: int
    tokens: int
    unknown: int

    @property
    def unknown_share(self) -> float:
        """Unknown tokens over all tokens."""
        return self.unknown / self.tokens if self.tokens else 0.0

    def sentence(self) -> str:
        """Return what a loss means, in words; empty where nothing is lost."""
        if not self.changed:
            return ""
        return (
            f"the tokenizer does not give back {self.changed:,} of {plural(self.documents, 'evaluation document')} "
            f"(decode(encode(text)) is another text; {self.unknown_share:.1%} of the tokens are unknown), so it has no "
            "bits per byte"
        )

    def facts(self) -> dict[str, Any]:
        """Return the same for the run log; empty where nothing is lost."""
        if not self.changed:
            return {}
        return {"documents": self.documents, "changed": self.changed, "unknown_share": self.unknown_share}


def round_trip(
    rows: datasets.Dataset,
    encoder: DocumentEncoder,
    *,
    key: str,
    texts_of: Callable[[str], list[str]] | None = None,
    workers: int = 1,
) -> RoundTrip:
    """Return what becomes of the column ``text`` of some documents; cached.

    Args:
        rows: the documents.
        encoder: of the tokenizer.
        key: names the content of ``rows``.
        texts_of: gives the texts that are scored of a document that is no text itself.
        workers: processes.
    """
    if encoder.is_of_bytes and texts_of is None:
        return RoundTrip(len(rows), 0, 0, 0)
    found = cached_map(
        rows,
        _Trip(encoder, texts_of),
        kind="round-trip",
        key=[key, encoder.fingerprint, str(encoder.unk_token_id), code_digest(__file__)],
        features=_FEATURES,
        description="Decoding the evaluation text",
        workers=workers,
    )
    changed, tokens, unknown = (sum(found[name]) for name in _FEATURES)
    return RoundTrip(len(found), changed, tokens, unknown)


@dataclass
class _Trip:
    encoder: DocumentEncoder
    texts_of: Callable[[str], list[str]] | None

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = []
        for document in table.column("text").to_pylist():
            texts = [document] if self.texts_of is None else self.texts_of(document)
            ids = self.encoder.encode_ids(texts)
            changed = self.encoder.decode(ids) != texts
            unknown = sum(int((each == self.encoder.unk_token_id).sum()) for each in ids)
            rows.append((int(changed), sum(map(len, ids)), unknown))
        columns = zip(*rows, strict=True)
        return pa.table({name: pa.array(column, pa.int64()) for name, column in zip(_FEATURES, columns, strict=True)})
