"""``hf-difflm serve``: a model behind an HTTP API in OpenAI's form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..serving.api.options import ServeOptions
from ..training.declarations.fields import fields_of
from .flags import pick_fields, typed_flags, with_flags

OWN = fields_of(ServeOptions, "serving")
FIELDS = OWN | pick_fields("use_cpu", "revision")


@with_flags(FIELDS.values())
def serve(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="a run, a checkpoint or a model on the Hub")],
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            envvar="HF_DIFFLM_API_KEY",
            help="what clients must send; better in the environment, for others see the flags of a process",
        ),
    ] = None,
    **flags: Any,
) -> None:
    """Answer requests in the form of OpenAI's API: /v1/chat/completions, /v1/completions, /v1/models; and /health, /metrics.

    Ends on SIGTERM or Ctrl-C, when running requests are answered.
    """
    values = typed_flags(FIELDS, flags)
    options = ServeOptions(**{name: value for name, value in values.items() if name in OWN})
    if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable()):
        raise UserError("--api-key must be printable ASCII, and not empty; give another")
    try:
        from ..serving.api.listening import address_of, bound, is_loopback, serve_until_told
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "starlette", "uvicorn", "prometheus_client"):
            raise
        raise UserError(
            f"serve needs the package {error.name}; install it with `pip install 'hf_difflm[serve]'`"
        ) from error
    from ..evaluation.targets import load_target
    from .quiet import quiet_libraries

    quiet_libraries()
    listener = bound(options.host, options.port)  # before the model, which takes a while
    with listener:
        loaded = load_target(target, use_cpu=values.get("use_cpu", False), revision=values.get("revision"))
        name = options.model_name or (Path(target).resolve().name if Path(target).is_dir() else target)
        if api_key is None and not is_loopback(listener):
            print(
                f"warning: {options.host} can be reached from other machines, and there is no --api-key: whoever reaches it "
                "may use the model",
                file=sys.stderr,
            )
        print(f"{name} answers at {address_of(listener)}/v1 (Ctrl-C ends it)", flush=True)
        serve_until_told(loaded, name, options, api_key, listener)
