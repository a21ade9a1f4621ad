"""Objectives and functions that a user brings along."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_difflm.errors import UserError
from hf_difflm.evaluation.audit.counterexamples import ScoredTokensObjective
from hf_difflm.evaluation.audit.examination import examine
from hf_difflm.evaluation.audit.given import audit_function, imported, objective_of, subject_of
from hf_difflm.evaluation.audit.numbers import NoKnownMasks, ObjectiveNumber
from hf_difflm.evaluation.audit.report import text_of
from hf_difflm.evaluation.audit.request import AuditRequest, audit
from hf_difflm.evaluation.audit.subjects import Size, random_tables
from hf_difflm.objectives import (
    BlockDiffusionObjective,
    CausalObjective,
    MaskedDiffusionObjective,
    Objective,
    ObjectiveOutput,
)
from hf_difflm.objectives.count_laws import CountLaw

SIZE = Size(2, 3, denoisers=4)


class OwnNoise(Objective):
    """Any-order masks from a generator that this library does not know; calls the model for all logits."""

    name, bound, stochastic = "mdlm", "nelbo", True
    weighs, logged = True, 1.0

    def __init__(self, mask_token_id: int) -> None:
        self.mask_token_id = mask_token_id

    def __call__(self, model, batch, key, num_scored, device="cpu", accuracy=False):
        ids = batch["input_ids"]
        rows, length = ids.shape
        generator = np.random.default_rng([key.seed, len(key.purpose)])
        k_B = generator.integers(1, length + 1, rows)
        masked = torch.from_numpy(generator.random((rows, length)).argsort(-1).argsort(-1) < k_B[:, None])
        weights_B = torch.from_numpy(length / k_B if self.weighs else np.ones(rows))
        log_mu = model(input_ids=ids.masked_fill(masked, self.mask_token_id)).logits.log_softmax(-1)
        nll_N = -log_mu.gather(-1, ids[..., None]).squeeze(-1)[masked]
        rows_N, columns_N = np.nonzero(masked.numpy())
        loss = (nll_N * weights_B[rows_N]).sum() * self.logged / num_scored
        return ObjectiveOutput(loss, rows_N, columns_N, nll_N.detach(), weights_B.numpy()[rows_N])


class Unweighed(OwnNoise):
    weighs = False


class OtherLoss(OwnNoise):
    logged = 0.5


class OtherMasks(MaskedDiffusionObjective):
    """Hides one token more than it was told to."""

    def corrupt(self, scored_BL, key):
        corruption = super().corrupt(scored_BL, key)
        corruption.masked_BL[:, 0] = True
        return corruption


class NoWeights(BlockDiffusionObjective):
    """Block diffusion without the L_b / k of each block."""

    def corrupt(self, scored_BL, *given):
        corruption = super().corrupt(scored_BL, *given)
        corruption.weights_RL = scored_BL.astype(float)
        return corruption


class WithMore(MaskedDiffusionObjective):
    def __init__(self, mask_token_id: int, strength: float) -> None:
        super().__init__(mask_token_id)


class Forgetful(OwnNoise):
    """Its noise is not a function of the key."""

    def __call__(self, model, batch, key, *args, **kwargs):
        return super().__call__(model, batch, replace(key, seed=random.randrange(10**6)), *args, **kwargs)


class Failing(OwnNoise):
    def __call__(self, *args, **kwargs):
        raise RuntimeError("no such tensor\nin line 3")


class Detached(OwnNoise):
    def __call__(self, *args, **kwargs):
        output = super().__call__(*args, **kwargs)
        return replace(output, loss=output.loss.detach())


def made(thing, size: Size = SIZE) -> Objective:
    found = objective_of(thing, "mine:Thing", size)
    assert found is not None
    return found


def test_an_objective_of_ours_is_enumerated_and_what_evaluations_report_is_another_number():
    subject = subject_of(made(ScoredTokensObjective), "mine:Thing", SIZE)
    assert subject.reported.exact
    assert any("--for-evaluation" in note for note in subject.notes)
    assert examine(subject, SIZE).verdict.outcome == "not a bound"
    reported = examine(subject_of(made(ScoredTokensObjective), "mine:Thing", SIZE, for_evaluation=True), SIZE)
    assert reported.verdict.outcome == "bound"
    assert "MaskedDiffusionObjective, as ScoredTokensObjective.for_evaluation()" in text_of(reported)


def test_an_objective_that_is_made_already_is_taken():
    assert made(CausalObjective()).name == "ar"
    assert examine(subject_of(made(CausalObjective), "mine:Thing", SIZE), SIZE).sampler.name == "left to right"
    assert objective_of(math.log, "math:log", SIZE) is None


@pytest.mark.parametrize(
    "settings",
    [{}, {"noise_sampling": "pairs"}, {"count_law": CountLaw("importance"), "loss_weight": "nelbo"}],
    ids=["uniform", "pairs", "importance"],
)
def test_block_diffusion_is_enumerated_in_every_block(settings):
    right = examine(subject_of(made(BlockDiffusionObjective(2, 2, **settings)), "mine:right", SIZE), SIZE)
    assert (right.exact, right.verdict.outcome) == (True, "bound")
    assert (right.entropy.excess, right.entropy.most_excess) == pytest.approx((0, 0), abs=1e-6)


def test_block_diffusion_by_time_is_drawn():
    by_time = subject_of(made(BlockDiffusionObjective(2, 2, loss_form="time")), "mine:time", SIZE)
    assert not by_time.reported.exact
    assert examine(by_time, SIZE).verdict.outcome == "bound"


def test_block_diffusion_without_the_weight_of_each_block_is_found_out():
    wrong = examine(subject_of(made(NoWeights(2, 2)), "mine:wrong", SIZE), SIZE)
    assert (wrong.exact, wrong.verdict.outcome) == (True, "not a bound")
    assert wrong.entropy.excess < -0.01


def test_noise_that_is_not_known_is_judged_by_an_interval_that_holds_the_truth():
    subject = subject_of(made(OwnNoise), "mine:Thing", SIZE, replicates=400)
    assert not subject.reported.exact
    one = examine(subject, SIZE)
    model = random_tables(SIZE, subject)
    truth_D = np.exp(-ObjectiveNumber(MaskedDiffusionObjective(2), SIZE.all_sequences()).values(model)[0]).sum(-1)
    for found, truth in zip(one.sums["random"], truth_D, strict=True):
        assert 0 < found.half_width < 0.1
        assert abs(found.value - truth) < found.half_width
    assert max(one.sums["optimum"], key=lambda found: found.value).value == pytest.approx(1, abs=0.1)
    assert one.verdict.outcome == "bound"
    assert one.sampler.below == 0
    assert "noise from replicates" in text_of(one)
    assert "reaches the entropy of each source, within intervals" in text_of(one)


def test_what_is_no_bound_is_found_by_replicates_too():
    one = examine(subject_of(made(Unweighed), "mine:Thing", SIZE, replicates=400), SIZE)
    assert one.verdict.outcome == "not a bound"
    assert one.entropy.excess < -one.entropy.half_width


def test_a_few_replicates_cannot_tell():
    one = examine(subject_of(made(OwnNoise), "mine:Thing", SIZE, replicates=8), SIZE)
    assert one.verdict.sentence.startswith("cannot be told here: the sum of one denoiser is ")
    assert one.verdict.exit_code == 1


def test_the_masks_of_an_objective_that_draws_others_are_not_taken_for_known():
    number = ObjectiveNumber(OtherMasks(2), SIZE.all_sequences())
    model = random_tables(SIZE, subject_of(MaskedDiffusionObjective(2), "", SIZE))
    with pytest.raises(NoKnownMasks):
        number.values(model)
    assert not subject_of(made(OtherMasks), "mine:Thing", SIZE, replicates=None).reported.exact


@pytest.mark.parametrize(
    "objective",
    [MaskedDiffusionObjective(2), ScoredTokensObjective(2), BlockDiffusionObjective(2, 2)],
    ids=lambda objective: type(objective).__name__,
)
def test_enumeration_and_replicates_of_one_objective_agree(objective):
    exact = ObjectiveNumber(objective, SIZE.all_sequences())
    drawn = ObjectiveNumber(objective, SIZE.all_sequences(), replicates=600, seed=3)
    model = random_tables(SIZE, subject_of(objective, "", SIZE))
    values_RDS = drawn.values(model)
    stderr_DS = values_RDS.std(0, ddof=1) / 600**0.5
    assert (np.abs(values_RDS.mean(0) - exact.values(model)[0]) < 4.5 * stderr_DS).all()


def test_a_loss_that_is_not_the_number_is_noted():
    notes = subject_of(made(OtherLoss), "mine:Thing", SIZE, replicates=20).notes
    assert any("not the sum of token_weights_N times token_nll_N" in note for note in notes)
    assert not any("not the sum" in note for note in subject_of(made(OwnNoise), "", SIZE, replicates=20).notes)


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (WithMore, "needs the argument 'strength'"),
        (BlockDiffusionObjective, "needs the argument 'diffusion_block_size'"),
        (MaskedDiffusionObjective(7), "is 7, but with --vocabulary 2 it is 2"),
    ],
)
def test_an_objective_that_cannot_be_audited_is_refused(thing, said):
    with pytest.raises(UserError, match=said):
        objective_of(thing, "mine:Thing", SIZE)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Forgetful, "draws other noise when it is called again with the same NoiseKey"),
        (Failing, "Failing fails on a table of 2 tokens: no such tensor;"),
    ],
)
def test_an_objective_that_fails_or_forgets_its_key_is_told(kind, said):
    with pytest.raises(UserError, match=said):
        subject_of(made(kind), "mine:Thing", SIZE, replicates=20)


def test_a_loss_without_a_gradient_is_told():
    with pytest.raises(UserError, match="the loss of Detached has no gradient"):
        examine(subject_of(made(Detached), "mine:Thing", SIZE, replicates=20), SIZE)


def uniform(ids: list[int]) -> float:
    return len(ids) * math.log(2)


def test_a_function_that_is_an_nll_sums_to_one():
    one = audit_function(uniform, "mine:uniform", Size(2, 10), None)
    assert one.sums["given"][0].value == pytest.approx(1)
    assert one.verdict.sentence == "bound: no counterexample in 1 denoiser at V^L = 1024"


def test_a_function_below_every_nll_is_found_out_and_an_infinite_number_is_one():
    assert (
        audit_function(lambda ids: uniform(ids) - 0.1, "f", SIZE, None).verdict.sentence == "not a bound: sums to 1.11"
    )
    half = audit_function(lambda ids: math.inf if ids[0] else 0.01 + uniform(ids[1:]), "f", SIZE, None)
    assert half.sums["given"][0].value == pytest.approx(math.exp(-0.01))


def test_a_function_with_noise_is_called_many_times():
    generator = random.Random(0)
    one = audit_function(lambda ids: uniform(ids) + generator.gauss(0, 0.5), "f", SIZE, 200)
    assert not one.exact
    assert abs(one.sums["given"][0].value - 1) < one.sums["given"][0].half_width < 0.1
    assert one.verdict.outcome == "bound"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda ids: "many", "could not convert string"),
        (lambda ids: math.nan, "returns nan for"),
        (lambda ids: 1 / 0, "division by zero"),
        (lambda: 0.0, "positional argument"),
    ],
)
def test_a_function_that_returns_no_number_is_refused(function, said):
    with pytest.raises(UserError, match=said):
        audit_function(function, "mine:f", SIZE, None)


def test_a_module_of_the_current_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "found_here.py").write_text("import math\nloss = lambda ids: len(ids) * math.log(2)\nx = 3\n")
    (tmp_path / "broken_here.py").write_text("raise OSError('no disk')")
    assert audit("found_here:loss", AuditRequest(length=3)).verdict.outcome == "bound"
    with pytest.raises(UserError, match="did you mean 'loss'"):
        imported("found_here:los")
    with pytest.raises(UserError, match="no disk"):
        imported("broken_here:x")
    with pytest.raises(UserError, match="No module named"):
        imported("not_here_at_all:x")
    with pytest.raises(UserError, match="is int, neither"):
        audit("found_here:x", AuditRequest())


@pytest.mark.parametrize(
    ("target", "request_", "said"),
    [
        ("p9", AuditRequest(), "did you mean 'p3'"),
        ("p0", AuditRequest(replicates=4), "--replicates is not for p0"),
        ("p0", AuditRequest(tokens_per_step="2"), "--tokens-per-step is not for p0"),
        ("p0", AuditRequest(alphabet="ab"), "--alphabet is not for p0"),
        ("p0", AuditRequest(vocabulary=300, length=3), "more than the 65,536"),
        ("p0", AuditRequest(vocabulary=2, length=10**6), "more than the 65,536"),
        ("p0", AuditRequest(length=14), "more than 1,000,000 rows"),
        ("ar", AuditRequest(length=16), "make tables of "),
        ("atat", AuditRequest(), "audit p0"),
        ("bd3lm", AuditRequest(), "give bd3lm:SIZE"),
        ("bd3lm:0", AuditRequest(), "bd3lm:0 names no size of diffusion blocks"),
        ("bd3lm:2", AuditRequest(tokens_per_step="2"), "--tokens-per-step is not for bd3lm:2"),
        ("entropy", AuditRequest(tokens_per_step="none"), "--tokens-per-step must be"),
        ("math:log", AuditRequest(denoisers=4), "--denoisers is not for math:log"),
        ("no/such/folder", AuditRequest(), "does not exist"),
    ],
)
def test_what_does_not_go_together_is_refused(target, request_, said):
    with pytest.raises(UserError, match=said):
        audit(target, request_)


def test_the_objective_mdlm_is_what_it_reports():
    small = AuditRequest(length=2, denoisers=2)
    assert text_of(audit("mdlm", small)) == text_of(audit("p0", small))
