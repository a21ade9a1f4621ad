"""Samples during the training: what is written, and that the training does not notice."""

from __future__ import annotations

import json
import logging
import signal

import pytest
import torch
from any_trainer import build_trainer
from generated import generate_texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import EarlyStoppingCallback, PreTrainedTokenizerFast, TrainerCallback

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.callbacks.generation import DEFAULT_PROMPTS, GenerationSamplesCallback
from hf_difflm.callbacks.reports import reports_of
from hf_difflm.data import load_tokenizer
from hf_difflm.errors import UserError
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.quality.reference_model import load_reference
from hf_difflm.evaluation.quality.reference_perplexity import reference_perplexity
from hf_difflm.evaluation.quality.text_statistics import text_quality
from hf_difflm.experiments.monitoring import _of_file
from hf_difflm.runs import load_run

GENERATIVE = ("causal", "diffusion", "sft")
LOGGER = "hf_difflm.callbacks.generation"


class Board(TrainerCallback):
    """Keeps what is published, and the seconds that are left out."""

    def __init__(self):
        self.records, self.left_out = [], []

    def on_train_begin(self, args, state, control, **kwargs):
        reports_of(state).listen(self.records.append, lambda what, seconds: self.left_out.append((what, seconds)))

    @property
    def samples(self):
        return [record for record in self.records if record.type == "sample"]


class Disturbed(TrainerCallback):
    """Draws from the generators that a careless sampler would draw from; makes dropout differ from a run without."""

    def on_step_end(self, args, state, control, **kwargs):
        torch.rand(1)


@pytest.fixture(params=GENERATIVE)
def generative(request, tmp_path):
    def make(*callbacks, **arguments):
        return build_trainer(request.param, tmp_path / "out", *callbacks, **arguments)

    make.kind = request.param
    return make


def _with_dropout(trainer):
    found = [module for module in trainer.model.modules() if hasattr(module, "attention_dropout")]
    assert found
    for module in found:
        module.attention_dropout = 0.5
    return trainer


def _outcome(trainer):
    _with_dropout(trainer).train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}, losses


def test_weights_and_losses_are_bit_equal_with_and_without_dropout_on(generative):
    callback = GenerationSamplesCallback(("", "ab", "abc"), interval=1, max_new_tokens=12, before_training=True)
    board = Board()
    weights_with, losses_with = _outcome(generative(board, callback))
    weights, losses = _outcome(generative())
    assert len(board.samples) == 7 * 3 * 2
    assert losses_with == losses
    assert weights_with.keys() == weights.keys()
    assert all(torch.equal(weights_with[name], weights[name]) for name in weights)


def test_the_comparison_would_notice_a_single_random_number(generative):
    weights, _ = _outcome(generative())
    disturbed, _ = _outcome(generative(Disturbed()))
    assert not all(torch.equal(disturbed[name], weights[name]) for name in weights)


def test_samples_come_at_the_interval_and_at_the_last_step_with_their_quality(generative):
    board = Board()
    trainer = generative(board, GenerationSamplesCallback(("", "ab"), interval=4, max_new_tokens=9, seed=5))
    trainer.train()
    assert [(s.iter, s.extra["mode"], s.prompt) for s in board.samples] == [
        (step, mode, prompt) for step in (4, 6) for mode in ("greedy", "sampled") for prompt in ("", "ab")
    ]
    for mode, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        options = GenerationOptions(max_new_tokens=9, temperature=temperature, seed=5)
        texts = generate_texts(trainer.model, trainer.processing_class, ["", "ab"], options)
        last = [sample for sample in board.samples if (sample.iter, sample.extra["mode"]) == (6, mode)]
        assert [sample.text for sample in last] == texts
        for sample in last:
            assert sample.extra["seed"] == 5
            if "\ufffd" not in sample.text:  # the bytes of the text are its tokens
                expected = text_quality(sample.text.encode()).as_dict()
                assert {name: sample.extra[name] for name in expected} == pytest.approx(expected)
    means = [record for record in board.records if record.type == "measurement"]
    assert [(record.iter, record.source) for record in means] == [(4, "samples"), (6, "samples")]
    lengths = [sample.extra["length"] for sample in board.samples[-2:]]
    assert means[-1].metrics["samples_sampled/length"] == sum(lengths) / 2
    assert [what for what, _ in board.left_out] == ["sampling", "sampling"]
    assert all(seconds > 0 for _, seconds in board.left_out)


def test_same_weights_and_seeds_write_the_same_whatever_the_step(generative):
    board = Board()
    generative(board, GenerationSamplesCallback(("a",), interval=1, max_new_tokens=24), learning_rate=1e-30).train()
    for mode in ("greedy", "sampled"):
        texts = [sample.text for sample in board.samples if sample.extra["mode"] == mode]
        assert len(texts) == 6
        assert len(set(texts)) == 1


def test_greedy_text_of_a_causal_lm_does_not_depend_on_the_seed_and_drawn_text_does(tmp_path):
    texts = {}
    for seed in (0, 1):
        board = Board()
        callback = GenerationSamplesCallback(("a",), interval=6, seed=seed)
        build_trainer("causal", tmp_path / str(seed), board, callback).train()
        texts[seed] = {sample.extra["mode"]: sample.text for sample in board.samples}
    assert texts[0]["greedy"] == texts[1]["greedy"]
    assert texts[0]["sampled"] != texts[1]["sampled"]


def test_a_classifier_is_one_warning_and_trains_as_ever(tmp_path, caplog):
    board = Board()
    with caplog.at_level(logging.WARNING, LOGGER):
        build_trainer("classifier", tmp_path, board, GenerationSamplesCallback(interval=1)).train()
    assert [record.getMessage() for record in caplog.records if record.name == LOGGER] == [
        "no text is generated during this training: a BertForSequenceClassification cannot generate"
    ]
    assert board.records == board.left_out == []


def test_a_trainer_without_tokenizer_is_one_warning_and_takes_one_as_an_argument(make_trainer, tokenizer, caplog):
    with caplog.at_level(logging.WARNING, LOGGER):
        make_trainer(GenerationSamplesCallback(interval=1)).train()
    assert [record.getMessage() for record in caplog.records if record.name == LOGGER] == [
        "no text is generated during this training: the Trainer has no tokenizer; give it as processing_class"
    ]


def test_prompts_beyond_half_the_model_are_left_out_with_one_warning_and_the_rest_is_cut_to_its_length(
    tmp_path, caplog
):
    board = Board()
    prompts = ("x" * 40, "y" * 20, "z" * 10_000, "")
    with caplog.at_level(logging.WARNING, LOGGER):
        build_trainer("causal", tmp_path, board, GenerationSamplesCallback(prompts, interval=3)).train()
    (warning,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert "2 of 4 prompts" in warning
    assert len(warning) < 300
    assert {sample.prompt for sample in board.samples} == {"y" * 20, ""}
    assert all(0 < sample.extra["length"] <= 64 - 21 for sample in board.samples)


def test_holes_of_a_prompt_are_filled_and_nothing_is_appended(tmp_path, caplog):
    board = Board()
    prompts = ("ab[MASK]{40}cd", "x[MASK]y", "[MASK]{99}", "")
    with caplog.at_level(logging.WARNING, LOGGER):
        build_trainer("diffusion", tmp_path, board, GenerationSamplesCallback(prompts, max_new_tokens=5)).train()
    (warning,) = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert "1 of 4 prompts" in warning  # of more holes than the model takes tokens
    found = {prompt: [sample for sample in board.samples if sample.prompt == prompt] for prompt in prompts}
    assert [len(found[prompt]) for prompt in prompts] == [2, 2, 0, 2]
    for prompt, holes in (("ab[MASK]{40}cd", 40), ("x[MASK]y", 1)):
        before, after = prompt.split(f"[MASK]{{{holes}}}" if holes > 1 else "[MASK]")
        for sample in found[prompt]:
            assert sample.text.startswith(before)
            assert sample.text.endswith(after)
            assert sample.extra["length"] <= len(before) + holes + len(after)
    assert all(sample.extra["length"] <= 5 for sample in found[""])


def test_the_default_prompts_work_in_a_small_model(tmp_path):
    board = Board()
    build_trainer("causal", tmp_path, board, GenerationSamplesCallback()).train()
    assert [sample.prompt for sample in board.samples] == [*DEFAULT_PROMPTS] * 2
    assert {sample.iter for sample in board.samples} == {6}


def test_text_is_drawn_from_the_weights_it_is_given(generative):
    """Here: all zero inside the context, so that the greedy text is the first token over and over."""
    entered = []

    class Zeros:
        def __enter__(self):
            entered.append(True)
            self.kept = [parameter.detach().clone() for parameter in trainer.model.parameters()]
            with torch.no_grad():
                for parameter in trainer.model.parameters():
                    parameter.zero_()

        def __exit__(self, *error):
            with torch.no_grad():
                for parameter, value in zip(trainer.model.parameters(), self.kept, strict=True):
                    parameter.copy_(value)

    board = Board()
    trainer = generative(board, GenerationSamplesCallback(("a",), interval=3, weights=Zeros))
    trainer.train()
    greedy = [sample for sample in board.samples if sample.extra["mode"] == "greedy"]
    assert len(entered) == len(greedy) == 2
    assert all((sample.extra["top_share"], sample.extra["unigram_entropy"]) == (1.0, 0.0) for sample in greedy)


def test_a_reference_perplexity_stands_beside_its_entropy(tmp_path, tiny_causal, tokenizer):
    tiny_causal(seed=7).save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    board = Board()
    callback = GenerationSamplesCallback(("ab",), interval=6, reference_model=str(tmp_path / "judge"))
    weights_with, _ = _outcome(build_trainer("causal", tmp_path / "a", board, callback))
    weights, _ = _outcome(build_trainer("causal", tmp_path / "b"))
    assert all(torch.equal(weights_with[name], weights[name]) for name in weights)
    for sample in board.samples:
        expected = reference_perplexity([sample.text], load_reference(str(tmp_path / "judge")), contexts=["ab"])
        assert sample.extra["reference_perplexity"] == pytest.approx(expected.perplexity)
        assert sample.extra["reference_entropy"] == pytest.approx(expected.unigram_entropy)
    with pytest.raises(UserError, match="cannot be loaded as a causal LM"):
        build_trainer("causal", tmp_path / "c", GenerationSamplesCallback(reference_model=str(tmp_path / "c"))).train()


def test_a_training_that_an_evaluation_ends_is_sampled_at_its_last_step(tmp_path):
    board = Board()
    stopping = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1e9)
    build_trainer(
        "causal",
        tmp_path,
        board,
        stopping,
        GenerationSamplesCallback(("a",), interval=1000),
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        save_strategy="no",
    ).train()
    assert {sample.iter for sample in board.samples} == {2}


@pytest.mark.parametrize("first", [True, False], ids=["before the interrupt's callback", "after it"])
@pytest.mark.parametrize("evaluates", [True, False])
def test_an_interrupt_is_not_kept_waiting_by_samples_of_the_last_step(tmp_path, first, evaluates):
    class Interrupts(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                signal.raise_signal(signal.SIGINT)

    board = Board()
    samples = GenerationSamplesCallback(("a",), interval=1000)
    evaluation = {"eval_strategy": "steps", "eval_steps": 2} if evaluates else {}
    trainer = build_trainer("diffusion", tmp_path, board, Interrupts(), *([samples] if first else []), **evaluation)
    if not first:
        trainer.add_callback(samples)
    trainer.train()
    assert (trainer.state.global_step, trainer.interrupt.interrupted) == (2, True)
    assert any("eval_loss" in entry for entry in trainer.state.log_history) is evaluates
    assert board.samples == []


def test_the_run_log_has_the_samples_of_a_resumed_run_once(tmp_path):
    def trainer(**arguments):
        callbacks = (RunLogCallback(run_name="tiny"), GenerationSamplesCallback(("a",), interval=2))
        return build_trainer("causal", tmp_path, *callbacks, save_strategy="steps", save_steps=2, **arguments)

    trainer().train()
    before = [(sample.iter, sample.text) for sample in load_run(tmp_path).samples]
    trainer().train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    after = [(sample.iter, sample.text) for sample in load_run(tmp_path).samples]
    assert [step for step, _ in before] == [2, 2, 4, 4, 6, 6]
    assert after == before


def test_hostile_prompts_leave_the_log_strict_json(generative, tmp_path):
    prompts = ("$x_1$", "<script>", "\x1b[2J\x07", "\ud800", "\udcff")
    generative(RunLogCallback(run_name="tiny"), GenerationSamplesCallback(prompts, interval=3)).train()
    lines = (tmp_path / "out" / "journal.jsonl").read_text(encoding="ascii").splitlines()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    records = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [record["prompt"] for record in records if record["type"] == "sample"] == [*prompts] * 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"prompts": ()}, "prompts is"),
        ({"prompts": "abc"}, "prompts is 'abc'"),
        ({"interval": 0}, "interval is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments_are_sentences(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        GenerationSamplesCallback(**arguments)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.borders
def test_messages_and_ids_are_prompts_with_their_control_tokens(tiny_denoiser):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>", "[PAD]", "[MASK]"])
    roles = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "mask_token": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    tokenizer.chat_template = CHATML
    question = [{"role": "user", "content": "a"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=True, return_dict=False)
    text = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert ids[0] == 256
    callback = GenerationSamplesCallback([question, ids, text], tokenizer=tokenizer)
    assert callback._prepare(tiny_denoiser(), None, warn=False) is None
    assert [(shown, prompt.ids) for shown, prompt in callback._usable] == [(text, ids)] * 3


@pytest.mark.borders
def test_prompts_may_be_objects_as_in_a_file(tiny_denoiser, tmp_path):
    tokenizer = load_tokenizer("bytes")
    tokenizer.chat_template = CHATML + "{{ tools | tojson if tools else '' }}"
    question, tools = [{"role": "user", "content": "a"}], [{"type": "function"}]
    lines = [{"messages": question}, {"prompt": "ab"}, {"messages": question, "tools": tools}]
    callback = GenerationSamplesCallback([*lines, tuple(question), "ab"], tokenizer=tokenizer)
    asked = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert callback._prepare(tiny_denoiser(), None, warn=False) is None
    shown = [asked, "ab", asked + '[{"type": "function"}]']
    long = callback._encoded(tiny_denoiser(), callback.prompts[2])
    assert [callback._encoded(tiny_denoiser(), prompt)[0] for prompt in callback.prompts] == shown
    assert long is not None
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert GenerationSamplesCallback(_of_file(str(path))).prompts == callback.prompts


@pytest.mark.borders
@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        ({"text": "a"}, r"prompts\[1\] is \{'text': 'a'\}; give a text, a list of messages"),
        (3, r"prompts\[1\] is 3; give a text"),
        (["a", "b"], r"prompts\[1\] is \['a', 'b'\]; give a text"),
        ([{"content": "a"}], r"message 1 in prompts\[1\] has no role and content"),
        (
            {"messages": [{"role": "assistant", "content": "a"}]},
            r"the last message in prompts\[1\] is an answer already",
        ),
    ],
)
def test_what_is_no_prompt_is_refused(prompt, what):
    with pytest.raises(UserError, match=what):
        GenerationSamplesCallback(["a", prompt])
