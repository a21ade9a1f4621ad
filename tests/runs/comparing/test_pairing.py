"""The paired difference of two runs, and its error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import evaluated, make_run

from hf_difflm.runs import compare_runs
from hf_difflm.runs.comparing.pairing import PairedDifference, UnpairedDifference, paired_difference
from hf_difflm.runs.comparing.units import write_evaluation


@pytest.fixture
def pair(write_run):
    """Two runs: a bound and an exact value."""
    return write_run("a", objective="mdlm", bound="nelbo"), write_run("b", objective="ar", bound="exact")


def _contents(ids, tokens):
    texts = [f"text {unit} of {count}" for unit, count in zip(ids, tokens, strict=True)]
    return {"text": texts, "tokens": texts, "context": texts, "num_bytes": list(tokens)}


def _record(run, ids, tokens, nll, unit="documents"):
    write_evaluation(run.path.parent, 20, unit, ids, tokens, nll, _contents(ids, tokens))


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
def test_what_cannot_be_paired_gives_no_number(pair, ids, tokens, unit):
    _record(pair[0], [1, 2], [5, 5], [1.0, 2.0])
    _record(pair[1], ids, tokens, [1.0] * len(ids), unit)
    found = paired_difference(*pair)
    assert isinstance(found, UnpairedDifference)
    assert found.nats is None
    assert str(found).startswith("mdlm and ar are not compared: ")


@pytest.mark.borders
@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (
            ["a", "b", "c"],
            ["d", "e", "f"],
            "they were evaluated on different texts: of 3 and 3 blocks none are the same",
        ),
        (["a", "b", "c"], ["x", "y", "c"], "of 3 and 3 blocks 1 is the same"),
    ],
)
def test_blocks_of_one_number_and_other_text_are_never_paired(tmp_path, first, second, sentence):
    runs = [
        evaluated(make_run(name), tmp_path / name, texts=texts, unit="blocks")
        for name, texts in (("m", first), ("n", second))
    ]
    found = paired_difference(*runs, names=["m", "n"])
    assert found.nats is None
    for text in (str(found), compare_runs(runs).to_text(160), compare_runs(runs).to_markdown()):
        assert sentence in text
        assert "paired over" not in text


@pytest.mark.borders
def test_only_units_proved_the_same_are_paired_wherever_they_stand(tmp_path):
    one = evaluated(make_run("m"), tmp_path / "m", texts=["a", "b", "c"], nll=[1.0, 2.0, 3.0])
    two = evaluated(make_run("n"), tmp_path / "n", texts=["c", "z", "b"], nll=[2.5, 9.0, 1.5], tokens=["c", "z", "b"])
    found = paired_difference(one, two, names=["m", "n"])
    assert isinstance(found, PairedDifference)
    assert "paired over 2 documents that both scored, of 3 and 3" in str(found)


@pytest.mark.borders
@pytest.mark.parametrize("what", ["tokens", "context"])
def test_the_same_text_in_other_tokens_or_context_is_compared_in_bits_per_byte(tmp_path, what):
    one = evaluated(make_run("m"), tmp_path / "m", nll=[1.0, 1.0, 1.0])
    two = evaluated(make_run("n"), tmp_path / "n", nll=[0.5, 0.5, 0.5], **{what: ["x", "y", "z"]})
    found = paired_difference(one, two, names=["m", "n"])
    assert found.measure == "bits/byte"
    assert found.nats == pytest.approx(0.5 / np.log(2))
    assert (
        "bits/byte (best evaluations, paired over 3 documents of the same text, of 3 and 3; tokens or context differ)"
        in str(found)
    )
    for record in two.evaluations:
        del record.metrics["eval_bpb"]
    lossy = paired_difference(one, two, names=["m", "n"])
    assert lossy.nats is None
    assert "3 documents are the same text" in lossy.why
    assert "of n there are no bits per byte" in lossy.why


@pytest.mark.borders
@pytest.mark.parametrize(("known", "whose"), [((False, False), "their logs do"), ((True, False), "the log of n does")])
def test_logs_that_do_not_say_what_they_scored_are_compared_without_pairing_and_say_so(tmp_path, known, whose):
    runs = [evaluated(make_run(name), tmp_path / name, known=each) for name, each in zip("mn", known, strict=True)]
    for run, nll in zip(runs, (2.5, 2.0), strict=True):
        for record in run.evaluations:
            record.metrics.update(eval_nll=nll, eval_nll_data_stderr=0.3)
    found = paired_difference(*runs, names=["m", "n"])
    assert isinstance(found, UnpairedDifference)
    assert (found.nats, found.stderr) == (pytest.approx(0.5), pytest.approx(np.hypot(0.3, 0.3)))
    assert f"not paired: what text {'they' if not known[0] else 'it'} scored {whose} not say" in str(found)
    assert "not resolved" in str(found)  # paired, the error would have been 0


@pytest.mark.borders
def test_a_lossy_tokenizer_is_named_in_every_comparison():
    lossy = make_run("lossy")
    lossy.header.data["round_trip"] = {"documents": 14, "changed": 12, "unknown_share": 0.031}
    sentence = (
        "lossy has no bits/byte: its tokenizer does not give back 12 of 14 evaluation documents; 3.1% of its tokens are "
        "unknown."
    )
    comparison = compare_runs([lossy, make_run("plain")])
    assert comparison.lossy == [sentence]
    assert sentence in comparison.to_text(160)
    assert sentence in comparison.to_markdown()


def test_the_evaluation_that_another_metric_chose_is_named_by_its_step(tmp_path):
    runs = [evaluated(make_run(name, steps=steps), tmp_path / name) for name, steps in (("m", 100), ("n", 200))]
    said = str(paired_difference(*runs, names=["m", "n"]))
    assert "paired over 3 documents; of n the one of step 100, kept in best/):" in said


def test_a_text_that_is_there_twice_is_paired_twice_and_not_four_times(tmp_path):
    runs = [evaluated(make_run(name), tmp_path / name, texts=["a", "a", "b"]) for name in "mn"]
    assert paired_difference(*runs, names=["m", "n"]).units == 3


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
        ids = list(range(len(rows)))
        write_evaluation(folder, 1, "documents", ids, tokens, nll, _contents(ids, tokens))
        runs.append(load_run(folder))
    one, other = paired_difference(*runs), paired_difference(*reversed(runs))
    assert one.nats == pytest.approx(-other.nats)
    assert one.stderr == pytest.approx(other.stderr)
