from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.runs.journal.redaction import REDACTED, is_secret, redact, redact_command

SECRETS = [
    "hub_token",
    "token",
    "HF_TOKEN",
    "use_auth_token",
    "push_to_hub_token",
    "api_key",
    "apiKey",
    "WANDB_API_KEY",
    "wandb_key",
    "password",
    "db_password",
    "client_secret",
    "AWS_SECRET_ACCESS_KEY",
    "access_tokens",
    "private_key",
]
HARMLESS = [
    "num_tokens",
    "tokens_per_sec",
    "pad_token",
    "mask_token",
    "mask_token_id",
    "max_new_tokens",
    "num_key_value_heads",
    "tokenizer",
    "tokenizer_name",
    "include_num_input_tokens_seen",
    "keys_to_ignore_at_inference",
    "past_key_values",
    "eos_token",
    "additional_special_tokens",
    "train_tokens_per_second",
    "learning_rate",
    "average_tokens_across_devices",
]


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_setting_is_redacted_as_setting_flag_and_variable(key):
    assert redact({"a": {key: "hunter2hunter2"}}) == {"a": {key: REDACTED}}
    flag = "--" + key.replace("_", "-")
    assert "hunter2" not in redact_command(["hf-difflm", "train", flag, "hunter2hunter2"])
    assert "hunter2" not in redact_command(["hf-difflm", "train", f"--{key}=hunter2hunter2"])
    assert "hunter2" not in redact_command(["hf-difflm", f"{key}=hunter2hunter2"])


@pytest.mark.parametrize("key", HARMLESS)
@pytest.mark.parametrize("value", ["no", 5, 5.0, True, ["<extra>"]])
def test_a_name_of_training_is_not_a_secret(key, value):
    assert redact({key: value}) == {key: value}


def test_numbers_are_no_tokens_but_may_be_passwords():
    assert not is_secret("max_length_token_budget", "512")
    assert is_secret("password", 1234)
    assert not is_secret("hub_token", None)


@given(st.text(alphabet="abcdefghijABCDEFGHIJ0123456789", min_size=24, max_size=40))
def test_a_token_in_any_text_is_known_by_its_look(body):
    assert body not in redact({"note": f"push with hf_{body} please"})["note"]
    assert body not in redact_command(["curl", f"https://user:{body}@host/x"])


def test_the_values_of_secret_environment_variables_are_found_anywhere(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "correct-horse-battery")
    assert redact(["at correct-horse-battery!"]) == [f"at {REDACTED}!"]
    assert "horse" not in redact_command(["run", "--note", "correct-horse-battery"])


def test_a_command_keeps_its_other_words_and_names_the_program_without_its_folder():
    command = redact_command(
        ["/opt/venv/bin/hf-difflm", "train", "--max-new-tokens", "64", "--name", "a b", "--token", "x1y2"]
    )
    assert command == "hf-difflm train --max-new-tokens 64 --name 'a b' --token [redacted]"
    assert redact_command(["/home/me/cli.py", "train"]) == "python cli.py train"
    assert redact_command(["/x/hf_difflm/__main__.py", "train"]) == "python -m hf_difflm train"
