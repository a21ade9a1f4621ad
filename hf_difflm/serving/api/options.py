"""How a server listens and what it puts up with: the one declaration behind the flags."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ServeOptions:
    """Options of ``hf-difflm serve``."""

    host: str = field(
        default="127.0.0.1", metadata={"help": "address to listen on; 0.0.0.0 is every one of the machine"}
    )
    port: int = field(default=8000, metadata={"help": "port; 0 takes a free one", "min": 0, "max": 65535})
    model_name: str | None = field(
        default=None, metadata={"help": "what clients call the model; default: the folder's name, or OWNER/NAME"}
    )
    max_batch: int = field(default=32, metadata={"help": "most texts written at once", "min": 1})
    max_queue: int = field(
        default=256, metadata={"help": "most texts that wait; further requests are refused (429)", "min": 1}
    )
    max_body_bytes: int = field(default=1_000_000, metadata={"help": "longest request body (413)", "min": 1})
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "most tokens of a prompt and its text; default: what the model takes, 4096 where it does not say",
            "min": 1,
        },
    )
    request_seconds: float = field(
        default=300.0, metadata={"help": "longest a request may take, waiting included (504)", "above": 0.0}
    )
    grace_seconds: float = field(
        default=30.0, metadata={"help": "after SIGTERM: longest that running requests may still take", "min": 0.0}
    )
    access_log: bool = field(default=False, metadata={"help": "print a line for each request"})
