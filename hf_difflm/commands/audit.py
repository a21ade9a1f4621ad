"""``hf-difflm audit``: is a number that is reported as a bound on the nll one? The Kraft test, by enumeration."""

from __future__ import annotations

from typing import Annotated

import typer


def audit(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="bounds p0, p0_time, p0_cosine, pairs, importance, p1, p2, p3, bd3lm:1, bd3lm:2, bd3lm:4 (or any other "
            "size); exact numbers left_to_right, confidence, margin, entropy, random, ar; what looks wrong: "
            "sum_over_masked, reciprocal_cosine, sum_over_scored, dependent_tokens, protocol_llada, protocol_dream, "
            "p2_uncorrected, reciprocal_one_minus_cosine; MODULE:CLASS of an objective; MODULE:FUNCTION of a list of ids, in "
            "nats; a run or a checkpoint",
        ),
    ],
    vocabulary: Annotated[int | None, typer.Option(min=2, metavar="V", help="tokens (default: 2)")] = None,
    length: Annotated[int | None, typer.Option(min=1, metavar="L", help="tokens of a sequence (default: 4)")] = None,
    denoisers: Annotated[
        int | None,
        typer.Option(min=1, help="denoisers to train, each on a source of its own, and random ones (default: 20)"),
    ] = None,
    tokens_per_step: Annotated[
        str | None, typer.Option(help="of an exact order, as of `eval --exact`: tokens revealed together (default: 1)")
    ] = None,
    replicates: Annotated[
        int | None, typer.Option(min=2, help="draws of noise, of objectives and functions with noise of their own")
    ] = None,
    for_evaluation: Annotated[
        bool | None,
        typer.Option("--for-evaluation", help="of an objective: the number of its for_evaluation(), not its own"),
    ] = None,
    alphabet: Annotated[
        str | None, typer.Option(metavar="TEXT", help="of a run: the tokens of this text make the sequences")
    ] = None,
    most_frequent: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="K", help="of a run: the K tokens it gives most probability at the start (default: 2)"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of all that is drawn (default: 0)")] = None,
    use_cpu: Annotated[bool | None, typer.Option("--use-cpu", help="of a run: leave the model on the CPU")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON, alone on stdout")] = False,
) -> None:
    """Test whether a number that is reported as a bound on the nll is one: do all exp(-number) sum to 1 at most?

    All V^L sequences are enumerated, at the optimum of the training loss for several sources and at random denoisers.
    The last line is the verdict: `bound: no counterexample in 40 denoisers at V^L = 16`, `not a bound: sums to 1.37` or
    `cannot be told here: ...`. Exits with code 0 for the first and 1 for the others. See docs/audit.md.
    """
    from ..evaluation.audit import report
    from ..evaluation.audit.request import AuditRequest
    from ..evaluation.audit.request import audit as audit_target
    from .quiet import quiet_libraries

    quiet_libraries()
    request = AuditRequest(
        vocabulary,
        length,
        denoisers,
        seed,
        tokens_per_step,
        replicates,
        for_evaluation,
        alphabet,
        most_frequent,
        use_cpu,
    )
    found = audit_target(target, request)
    print(report.json_of(found, target) if as_json else report.text_of(found))
    raise typer.Exit(found.verdict.exit_code)
