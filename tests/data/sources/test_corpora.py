from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest

from hf_difflm.data import MarkovSource
from hf_difflm.data.sources.corpora import Corpus, load_corpus
from hf_difflm.data.sources.markov import markov_documents, markov_states
from hf_difflm.data.sources.python_docs import _module_docstrings
from hf_difflm.errors import UserError


@pytest.fixture(scope="module")
def python_docs(cache_folder: Path) -> datasets.DatasetDict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache_folder)
        return load_corpus("python-docs", block_size=128).splits


@pytest.mark.slow
def test_python_docs_has_about_two_megabytes_in_90_5_5_percent_of_distinct_documents(
    python_docs: datasets.DatasetDict,
) -> None:
    texts = {split: rows["text"][:] for split, rows in python_docs.items()}
    everything = [text for split in texts.values() for text in split]
    assert len(set(everything)) == len(everything)
    assert "" not in everything
    assert 1_000_000 < sum(len(text.encode("utf-8")) for text in everything) < 5_000_000
    share = round(0.05 * len(everything))
    assert [len(texts[split]) for split in ("validation", "test")] == [share, share]


@pytest.mark.slow
def test_python_docs_holds_the_language_reference_and_docstrings(python_docs: datasets.DatasetDict) -> None:
    everything = "\n".join(text for rows in python_docs.values() for text in rows["text"])
    assert "Boolean operations" in everything
    assert "Serialize ``obj`` to a JSON formatted ``str``." in everything


def test_python_docs_never_imports_what_it_reads(tmp_path: Path) -> None:
    source = (
        '"""One."""\nraise SystemExit\nclass A:\n    """Two."""\n    def f(self):\n        """Three\n        lines."""'
    )
    (tmp_path / "module.py").write_text(source)
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text('"""Not this."""')
    assert _module_docstrings(tmp_path) == ["", "One.\n\nTwo.\n\nThree\nlines."]


def test_markov_source_has_the_stationary_distribution_and_entropy_rate_it_says() -> None:
    source = MarkovSource()
    assert source.transitions.shape == (8, 8)
    np.testing.assert_allclose(source.transitions.sum(axis=1), 1)
    np.testing.assert_allclose(source.stationary @ source.transitions, source.stationary, atol=1e-12)
    np.testing.assert_allclose(source.stationary.sum(), 1)
    # By the chain rule over all two-letter sequences: H(x1, x2) - H(x1).
    pairs = source.stationary[:, None] * source.transitions
    entropy = -(pairs * np.log(pairs)).sum() + (source.stationary * np.log(source.stationary)).sum()
    assert source.entropy_rate() == pytest.approx(entropy, abs=1e-12)
    assert source.entropy_rate() == pytest.approx(1.5, abs=0.01)


def test_markov_likelihoods_of_all_sequences_sum_to_one() -> None:
    states = np.stack(np.meshgrid(*[np.arange(8)] * 4, indexing="ij"), axis=-1)
    nll = MarkovSource().sequence_nll(states)
    assert nll.shape == (8, 8, 8, 8)
    assert np.exp(-nll).sum() == pytest.approx(1)


def test_markov_samples_follow_the_chain() -> None:
    source = MarkovSource()
    states = source.sample(4000, 50, seed=5)
    counts = np.zeros((8, 8))
    np.add.at(counts, (states[:, :-1].reshape(-1), states[:, 1:].reshape(-1)), 1)
    num_visits = counts.sum(axis=1, keepdims=True)
    deviations = (counts / num_visits - source.transitions) / np.sqrt(source.transitions / num_visits)
    assert np.abs(deviations).max() < 4.5  # 64 approximately standard normal values
    first = np.bincount(states[:, 0], minlength=8) / 4000
    assert np.abs((first - source.stationary) / np.sqrt(source.stationary / 4000)).max() < 4
    assert source.sequence_nll(states).mean() / 50 == pytest.approx(1.5, abs=0.02)


def test_markov_documents_are_the_same_text_every_time_and_of_the_length_asked_for() -> None:
    splits = markov_documents(MarkovSource(), length=9)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 8192, "validation": 512, "test": 512}
    assert {len(text) for text in splits["train"]["text"]} == {9}
    assert splits["train"]["text"][:] != splits["validation"]["text"][:]
    digest = hashlib.sha256("".join(splits["validation"]["text"]).encode()).hexdigest()
    script = (
        "import hashlib; from hf_difflm.data.sources.markov import *; d = markov_documents(MarkovSource(), 9)['validation'];"
        "print(hashlib.sha256(''.join(d['text']).encode()).hexdigest())"
    )
    again = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert again.strip() == digest


def test_markov_states_undo_the_letters() -> None:
    assert markov_states(["abh", "cde"]).tolist() == [[0, 1, 7], [2, 3, 4]]


def corpus(**splits: list[str]) -> Corpus:
    rows = {name: datasets.Dataset.from_dict({"text": texts}) for name, texts in splits.items()}
    return Corpus("mine", datasets.DatasetDict(rows))


def test_splits_can_be_sliced_and_added() -> None:
    mine = corpus(train=list("abcdefghij"), test=["x", "y"])
    assert mine.split("train")["text"][:] == list("abcdefghij")
    assert mine.split("train[:80%]")["text"][:] == list("abcdefgh")
    assert mine.split("train[8:]+test")["text"][:] == ["i", "j", "x", "y"]


@pytest.mark.parametrize("spec", ["trian", "train[:80", "", "train[a:b]"])
def test_an_unknown_split_names_those_there_are(spec: str) -> None:
    with pytest.raises(UserError, match="its splits are train, test"):
        corpus(train=["a"], test=["b"]).split(spec)


def test_a_folder_laid_out_like_a_hub_data_set_loads_by_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: train\n    path: a.jsonl\n"
        "  - split: validation\n    path: b.jsonl\n---\n"
    )
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n')
    (tmp_path / "b.jsonl").write_text('{"body": "two"}\n')
    loaded = load_corpus(str(tmp_path), "small", text_column="body", block_size=8)
    assert [loaded.split(split)["text"][:] for split in ("train", "validation")] == [["one"], ["two"]]
    with pytest.raises(UserError, match=r"has no column 'bodi', its columns are body; did you mean 'body'\?"):
        load_corpus(str(tmp_path), "small", text_column="bodi", block_size=8).split("train")
    with pytest.raises(UserError, match="configuration 'large'"):
        load_corpus(str(tmp_path), "large", block_size=8)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("python-doc", "did you mean 'python-docs'?"),
        ("someone/something", "check the name and the network"),
        ("a b", "embedded python-docs, markov"),
    ],
)
def test_a_data_set_that_cannot_be_reached_is_one_sentence(
    name: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"cannot load data set '{name}'") as error:
        load_corpus(name, block_size=8)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.txt", "./missing", "/missing/folder", "a/b/c", "~/no/such.parquet"])
def test_a_missing_path_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        load_corpus(name, block_size=8)
