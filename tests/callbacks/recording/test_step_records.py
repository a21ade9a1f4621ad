"""A step row keeps the digits that are known, and no more."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_difflm.callbacks.recording.step_records import step_record, step_records
from hf_difflm.runs.journal.schema import encode
from hf_difflm.runs.journal.strict_json import loads


def test_a_float32_loses_nothing_that_its_neighbours_do_not_share():
    generator = np.random.default_rng(0)
    for value in np.exp(generator.uniform(-20, 15, 1000)).astype(np.float32):
        record = step_record({"iter": 1, "loss": float(value), "grad_norm": float(-value)})
        assert record.loss == pytest.approx(float(value), rel=5.1e-7)
        assert record.grad_norm == -record.loss
        assert float(f"{record.loss:.7g}") == record.loss


def test_counts_and_totals_stay_exact():
    big = 123_456_789_012_345_678.0
    record = step_record({"iter": 12_345_678, "loss": 1.0, "total_flops": big, "num_input_tokens_seen": 2**53 - 1})
    assert (record.iter, record.total_flops, record.tokens_seen) == (12_345_678, big, 2**53 - 1)
    (last,) = step_records([{"iter": 9, "loss": 1.0, "tokens": 1, "flops": 0.5}], 987_654_321.0, 1_234_567_890.5)
    assert (last.tokens_seen, last.total_flops) == (987_654_321, 1_234_567_890.5)


def test_a_number_of_the_users_own_keeps_all_that_stands_before_its_point():
    record = step_record({"iter": 1, "moment": 1_763_726_473.272, "count": 123_456_789, "share": 2 / 3})
    assert record.extra == {"moment": 1_763_726_473.272, "count": 123_456_789, "share": 0.6666667}


@pytest.mark.parametrize("rate", [1e-3, 3e-4, 2.5e-5, 1 / 3])
def test_a_learning_rate_as_people_write_it_stays_as_it_is_and_any_other_has_nine_digits(rate):
    assert step_record({"iter": 1, "learning_rate": rate}).lr == pytest.approx(rate, rel=1e-9, abs=0)
    assert step_record({"iter": 1, "learning_rate": 3e-4}).lr == 3e-4


def test_steps_of_a_huge_epoch_are_told_apart():
    steps = 10_000_000
    ends = [step_record({"iter": 1, "epoch": place / steps}).epoch for place in (steps - 1, steps, steps + 1)]
    assert ends == sorted(set(ends))
    assert ends[0] < 1.0 < ends[2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_still_flagged(value):
    line = loads(encode(step_record({"iter": 1, "loss": value, "time_ms": value, "masking_rate_min": value})))
    assert (line["loss"], line["time_ms"], line["masking_rate_min"]) == (None, None, None)
    assert set(line["nonfinite"]) == {"loss", "time_ms", "masking_rate_min"}


def test_a_row_of_a_denoiser_is_short():
    noise = {"noise_level": 0.8603954255686619, "masking_rate": 0.48611111111111105}
    noise |= {f"{name}_{end}": value / 7 for name, value in noise.items() for end in ("min", "max")}
    row = {"iter": 77, "loss": 4.006669998168945, "time_ms": 12.321234, "lr": 0.00023387893552061199, **noise}
    row |= {"grad_norm": 1.6425703763961792, "tokens_per_sec": 40905.51234, "accuracy": 0.17142857142857143}
    (record,) = step_records([row | {"tokens": 504, "flops": 3.2e8, "epoch": 0.020872865275142316}], 38808, 2.5e10)
    assert len(encode(record)) < 420
