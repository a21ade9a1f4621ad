"""``include=``: which gradient norms and statistics are reported."""

from __future__ import annotations

import pytest
from any_trainer import build_trainer

from hf_difflm.callbacks import GradientNormCallback, ModelStatisticsCallback, RunLogCallback
from hf_difflm.errors import UserError
from hf_difflm.runs import load_run


def test_what_matches_is_reported_and_a_pattern_that_nothing_matches_is_told(tmp_path, caplog):
    gradients = GradientNormCallback(include=["global", "layer_0[1-9]", "attn"])
    statistics = ModelStatisticsCallback(interval=3, include=["update_ratio/*", "activation/layer_01"])
    build_trainer("causal", tmp_path, RunLogCallback(), gradients, statistics).train()
    run = load_run(tmp_path)
    found = {source: {name for record in run.measurements if record.source == source for name in record.metrics}
             for source in ("gradients", "statistics")}  # fmt: skip
    assert found["gradients"] == {"grad_norm/global", "grad_norm/layer_01"}
    assert {name.partition("/")[0] for name in found["statistics"]} == {"update_ratio"}
    assert len(found["statistics"]) > 5
    assert {name for record in run.measurements for name in record.histograms or {}} == {"activation/layer_01"}
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("include")]
    assert len(told) == 1
    assert "nothing is called 'attn'; there are grad_norm/global" in told[0]


@pytest.mark.parametrize("callback", [GradientNormCallback, ModelStatisticsCallback])
@pytest.mark.parametrize("include", ["global", []])
def test_one_string_and_an_empty_list_are_refused(callback, include):
    with pytest.raises(UserError, match="give a list of patterns"):
        callback(include=include)
