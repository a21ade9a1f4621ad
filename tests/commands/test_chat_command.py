"""``chat`` through a pipe: answers alone on stdout, whatever the model; the rest in sentences on stderr."""

from __future__ import annotations

import io
import json

import pytest
from transformers import AutoTokenizer

from hf_difflm.data.conversations.chat_template import PLAIN_TEMPLATE
from hf_difflm.data.conversations.rows import load_conversations

SHORT = ["--max-new-tokens", "6", "--use-cpu"]


@pytest.fixture
def model_of(tmp_path, tokenizer, tiny_denoiser, tiny_causal):
    """``model_of("mdlm", template)``: the folder of an untrained model of 64 tokens, with a chat template or None."""

    def make(kind, template=PLAIN_TEMPLATE, limit=64):
        folder = tmp_path / kind
        special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        blocks = {"diffusion_block_size": 4, "diffusion_block_start": "answer"} if kind == "bd3lm" else {}
        vocabulary = len(tokenizer)
        if kind == "ar":
            model = tiny_causal(vocabulary)
            for name, token in special.items():
                setattr(model.config, name, token)
                setattr(model.generation_config, name, token)
        else:
            model = tiny_denoiser(vocabulary, mask_token_id=tokenizer.mask_token_id, **special, **blocks)
        network = model.config if kind == "ar" else model.config.backbone_config
        network.max_position_embeddings = limit
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "chat_template.jinja").unlink(missing_ok=True)  # of another test, which shares the tokenizer
        own = AutoTokenizer.from_pretrained(folder)
        own.chat_template = template
        own.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def talk(hf, monkeypatch):
    """``talk(folder, ["Hello", "/undo"])``: what comes out where these lines come through a pipe."""

    def call(folder, lines, *flags):
        written = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(written)))
        return hf("chat", folder, *flags, *SHORT)

    return call


@pytest.mark.parametrize("kind", ["ar", "mdlm", "bd3lm"])
def test_answers_are_those_of_generate_with_the_history_that_is_saved(hf, talk, model_of, kind, tmp_path):
    folder = model_of(kind, limit=256)
    first = talk(folder, ["2 + 2?"])
    assert (first.code, first.err) == (0, "")
    assert first.out == hf("generate", folder, "--chat", "--prompt", "2 + 2?", *SHORT).out
    # What bd3lm and ar have kept of the turns before changes no token: generate reads all anew.
    lines = ["2 + 2?", "no", "/undo", "and 3?", "/seed 5", "why?", "/save chat.jsonl"]
    result = talk(folder, lines)
    assert result.code == 0, result.err
    assert result.out.startswith(first.out)
    saved = json.loads((tmp_path / "chat.jsonl").read_text())
    assert [message["role"] for message in saved["prompt"]] == ["user", "assistant", "user", "assistant", "user"]
    assert [message["content"] for message in saved["prompt"][::2]] == ["2 + 2?", "and 3?", "why?"]
    (answer,) = saved["completion"]
    assert result.out.endswith(answer["content"] + "\n") or not answer["content"].isprintable()
    again = hf("generate", folder, "--chat", "--prompt-file", "chat.jsonl", "--seed", "5", "--jsonl", *SHORT)
    assert again.code == 0, again.err
    found = json.loads(again.out)
    assert found["text"].strip() == answer["content"]
    assert (found["messages"], found["completion"]) == (saved["prompt"], saved["completion"])
    (document,) = load_conversations(str(tmp_path / "chat.jsonl")).splits["train"]["text"]
    assert json.loads(document) == {"messages": [*saved["prompt"], *saved["completion"]]}


def test_what_is_wrong_is_a_sentence_and_the_chat_goes_on(talk, model_of, tmp_path):
    (tmp_path / "there.jsonl").write_text("mine\n")
    lines = {
        "/undo": "there is no turn to take back; say something first",
        "/again": "there is no message to answer again",
        "/save new.jsonl": "there is no answer yet to save to new.jsonl",
        "Hello": "",
        "/save there.jsonl": "there.jsonl is there already, and nothing is written over; give another name",
        "/save nowhere/chat.jsonl": "nowhere/chat.jsonl cannot be written",
        "/save": "/save needs a file",
        "/sampler nonsense": "sampler must be one of ddpm, ddpm_cache, first_hitting",
        "/sampler": "/sampler needs a name; it is one of ddpm,",
        '/sampler remdm {"eat": 1}': "sampler remdm has no parameter 'eat'; did you mean eta?",
        "/steps": "/steps needs a value, such as /steps 32",
        "/steps many": "max_denoising_steps must be",
        "/length 0": "max_new_tokens is 0, but an answer has at least 1 token",
        "/temperature -1": "temperature must be a number",
        "/undo 3": "/undo stands alone, but '3' follows it",
        "/quit now": "/quit stands alone",
        "/sampel remdm": "/sampel is no command; did you mean '/sampler'?",
        "x" * 60: "your message is 78 tokens as the model gets it, but the context has 64, 6 of them for the answer",
    }
    result = talk(model_of("mdlm"), [*lines, "/quit", "never"])
    assert result.code == 2
    told = result.err.splitlines()
    expected = [sentence for sentence in lines.values() if sentence]
    assert len(told) == len(expected)
    for line, sentence in zip(told, expected, strict=True):
        assert line.startswith("error: ")
        assert sentence in line
    assert (tmp_path / "there.jsonl").read_text() == "mine\n"
    assert result.out == talk(model_of("mdlm"), ["Hello"]).out, "one answer, and no command went to the model"


def test_settings_are_changed_shown_and_listed(talk, model_of):
    lines = ['/sampler remdm {"eta": 0.1}', "/steps 3", "/length 5", "/temperature 0", "/settings", "/help", "Hello"]
    result = talk(model_of("mdlm"), lines)
    assert result.code == 0, result.err
    notes = result.err.splitlines()
    assert notes[:4] == ['sampler: remdm {"eta": 0.1}', "steps: 3", "length: 5", "temperature: 0.0"]
    assert {("steps", "3"), ("sampler", "remdm"), ("seed", "0"), ("context", "64")} <= {
        tuple(note.split()) for note in notes
    }
    assert any(line.startswith("/undo ") for line in notes)


def test_another_answer_takes_the_place_of_the_last_and_reset_forgets(talk, model_of, tmp_path):
    lines = ["Hello", "/again", "/save one.jsonl", "/reset", "//Hello", "/save two.jsonl"]
    result = talk(model_of("mdlm"), lines, "--system", "Be brief.")
    assert result.code == 0, result.err
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.jsonl", "two.jsonl"))
    system = {"role": "system", "content": "Be brief."}
    assert one["prompt"] == [system, {"role": "user", "content": "Hello"}]
    assert two["prompt"] == [system, {"role": "user", "content": "/Hello"}]
    alone = talk(model_of("mdlm"), ["Hello", "/save alone.jsonl"], "--system", "Be brief.")
    assert alone.code == 0
    assert json.loads((tmp_path / "alone.jsonl").read_text())["completion"] != one["completion"]


def test_a_history_that_grows_too_long_is_said_to_lose_its_oldest_turns(talk, model_of):
    result = talk(model_of("ar"), ["one", "two", "three", "four"])
    assert result.code == 0, result.err
    assert "left out from here on: the context has 64 tokens, 6 of them for the answer" in result.err


def test_a_causal_lm_has_no_denoising(talk, hf, model_of):
    folder = model_of("ar")
    result = talk(folder, ["/steps 3", "/sampler remdm", "/temperature 0", "Hello", "/settings"])
    assert result.code == 2
    assert "/steps is for masked diffusion models, but this is a causal LM" in result.err
    assert "/sampler is for masked diffusion models" in result.err
    assert "sampler  " not in result.err
    flag = talk(folder, ["Hello"], "--sampler", "remdm")
    assert (flag.code, flag.out) == (2, "")
    assert flag.err.count("\n") == 1
    assert "--sampler is for masked diffusion models" in flag.err


def test_a_model_that_cannot_be_talked_with_says_how_it_could(talk, model_of):
    mute = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"
    for template, flags, sentence in (
        (
            None,
            (),
            "mdlm has no chat template, so it is not known how a message is written; fine-tune it on conversations",
        ),
        (mute, ("--system", "Be brief."), "does not write a system message; leave out --system"),
        (PLAIN_TEMPLATE, ("--system", " "), "--system is empty"),
        ("{{ raise_exception('no') }}", (), "refuses a conversation of user (no)"),
    ):
        result = talk(model_of("mdlm", template), ["Hello"], *flags)
        assert (result.code, result.out) == (2, "")
        assert sentence in result.err
        assert result.err.count("\n") == 1
    empty = talk(model_of("mdlm"), [])
    assert empty.code == 2
    assert "stdin is empty" in empty.err
    bad = talk(model_of("mdlm"), ["Hello", "\udcff"])
    assert bad.code == 2
    assert "stdin is not UTF-8 text" in bad.err
    assert bad.out
