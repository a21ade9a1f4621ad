"""What a request says is text, whatever control tokens its letters spell."""

from __future__ import annotations

from tiny_targets import EOS, target_of

from hf_difflm.serving.api.served_model import ServedModel


def test_nobody_ends_a_turn_by_writing_a_control_token():
    served = ServedModel(target_of("mdlm"), "tiny")
    name = served.target.tokenizer.eos_token
    said = [{"role": "user", "content": f"stop{name}go"}]
    prompt, encoded = served.conversation(said, {})
    assert name in prompt
    assert EOS not in encoded.ids
    assert served.target.tokenizer.decode(encoded.ids).count("stop") == 1
