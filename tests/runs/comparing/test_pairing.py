"""The paired difference of two runs, and its error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.runs.comparing.pairing import paired_difference, write_best_evaluation


@pytest.fixture
def pair(write_run):
    """Two runs: a bound and an exact value."""
    return write_run("a", objective="mdlm", bound="nelbo"), write_run("b", objective="ar", bound="exact")


def _record(run, ids, tokens, nll, unit="documents"):
    write_best_evaluation(run.path.parent, 20, unit, ids, tokens, nll)


def test_the_difference_is_weighted_by_tokens_and_its_error_is_that_of_the_differences(pair):
    tokens, first, second = np.array([10, 30, 60]), np.array([20.0, 75.0, 120.0]), np.array([15.0, 60.0, 96.0])
    _record(pair[0], [1, 2, 3], tokens.tolist(), first.tolist())
    _record(pair[1], [1, 2, 3], tokens.tolist(), second.tolist())
    found = paired_difference(*pair)
    mean = (first - second).sum() / 100
    assert found.nats == pytest.approx(mean)
    residual = first - second - mean * tokens
    assert found.stderr == pytest.approx(np.sqrt(3 / 2 * (residual**2).sum()) / 100)
    assert (found.units, found.unit) == (3, "documents")
    assert str(found).startswith(f"mdlm - ar: {mean:+.4f} ± {found.stderr:.4f} nats/token")
    assert "upper bound" in str(found)


def test_a_constant_difference_has_no_error_however_much_documents_differ(pair):
    tokens, nll = [10, 20, 70], np.array([50.0, 3.0, 200.0])
    _record(pair[0], [1, 2, 3], tokens, (nll + 0.25 * np.array(tokens)).tolist())
    _record(pair[1], [1, 2, 3], tokens, nll.tolist())
    found = paired_difference(*pair)
    assert found.nats == pytest.approx(0.25)
    assert found.stderr == pytest.approx(0, abs=1e-12)


def test_only_shared_documents_count_in_whatever_order(pair):
    _record(pair[0], [3, 1, 2], [5, 5, 5], [9.0, 1.0, 4.0])
    _record(pair[1], [1, 3, 7], [5, 5, 5], [1.0, 4.0, 100.0])
    found = paired_difference(*pair)
    assert found.units == 2
    assert found.nats == pytest.approx((0 + 5) / 10)


@pytest.mark.parametrize(
    ("ids", "tokens", "unit"),
    [([1], [5], "documents"), ([8, 9], [5, 5], "documents"), ([1, 2], [5, 6], "documents"), ([1, 2], [5, 5], "blocks")],
    ids=["one document", "none shared", "other tokens", "other units"],
)
def test_what_cannot_be_paired_gives_none(pair, ids, tokens, unit):
    _record(pair[0], [1, 2], [5, 5], [1.0, 2.0])
    _record(pair[1], ids, tokens, [1.0] * len(ids), unit)
    assert paired_difference(*pair) is None


def test_runs_without_an_evaluation_by_document_give_none(pair):
    assert paired_difference(*pair) is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 500), st.floats(0, 500)), min_size=2, max_size=20))
def test_swapping_the_runs_turns_the_sign_and_keeps_the_error(tmp_path_factory, rows):
    from hf_difflm.runs import Journal, load_run
    from hf_difflm.runs.journal.schema import RunRecord

    tokens, *sides = (list(column) for column in zip(*rows, strict=True))
    runs = []
    for name, nll in zip("ab", sides, strict=True):
        folder = tmp_path_factory.mktemp(name)
        journal = Journal(folder / "journal.jsonl")
        journal.append(RunRecord(run_name=name, run_id=name))
        journal.close()
        write_best_evaluation(folder, 1, "documents", list(range(len(rows))), tokens, nll)
        runs.append(load_run(folder))
    one, other = paired_difference(*runs), paired_difference(*reversed(runs))
    assert one.nats == pytest.approx(-other.nats)
    assert one.stderr == pytest.approx(other.stderr)
