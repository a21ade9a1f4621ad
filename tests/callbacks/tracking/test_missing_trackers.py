"""A tracker that is not installed is a sentence before there is a Trainer."""

from __future__ import annotations

import pytest
from transformers.utils.import_utils import _is_package_available

from hf_difflm.callbacks.tracking.open_trackers import refuse_missing_trackers
from hf_difflm.errors import UserError


@pytest.mark.parametrize("name", ["mlflow", "neptune", "comet_ml"])
def test_a_tracker_that_is_not_installed_is_named(name):
    found = _is_package_available(name)
    if found[0] if isinstance(found, tuple) else found:
        pytest.skip(f"{name} is installed")
    with pytest.raises(UserError, match=f"report_to names {name}, which is not installed; install its package"):
        refuse_missing_trackers(["tensorboard", name])


def test_what_is_installed_or_unknown_is_left_to_the_trainer():
    refuse_missing_trackers([])
    refuse_missing_trackers(["tensorboard", "wandb", "flyte", "azure_ml", "no-such-tracker"])
