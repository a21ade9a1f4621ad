"""Measure every family of transformers (`--measure`), and write docs/backbones.md from what was found."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import transformers

from hf_difflm.models.backbones import families
from hf_difflm.models.backbones.sentences import verdict_said
from hf_difflm.models.backbones.verdict import Verdict

PAGE = Path(__file__).parent / "backbones.md"
TABLE = Path(families.__file__).parent / "families.json"
_HEAD = """# Backbones

What a network reads is measured, not known by its name: one token is changed, and the positions whose hidden states move
have read it. `train`, `compare`, `convert`, `doctor`, `build_denoiser`, `build_causal_lm` and `DiffusionTrainer` ask each
network once, on a tiny copy of its configuration with at least two layers of each kind, and a network that is small or on a
GPU with its own weights, too.

- A denoiser that is *wholly causal* is refused. One with *some causal layers* (SSMs, linear attention, convolutions) is
  refused unless `--allow-causal-layers` is given.
- A *limited reach* (sliding windows) is told once. An autoregressive twin that *reads ahead* is refused, and so is an
  encoder as a causal LM that `eval`, `generate` or `--reference-model` is given.
- A network whose direction hangs on padding or on the attention kernel is refused, and so is one that computes something
  else once it is saved and loaded.
- A *mixture of experts* is trained without a router loss, as its family is by default, and that is told once. Where the
  family has one, `--router-aux-loss 0.01` adds its load-balancing loss with that coefficient to the training loss of either
  objective. It is taken over each sequence by itself (DeepSeek-V3, equation 17) and weighed by scored tokens, so that the
  gradient is the same however the batch is cut; of one sequence it is the number that transformers gives for a micro-batch.
  The log has it as `aux_loss`, without the coefficient; neither `loss` nor `eval_nll` contains it. Families without one, such
  as those that balance by a bias (DeepSeek-V3), refuse it.
- Positions are counted without padding: of backbones with learned positions, too, those of RoBERTa's kin that begin behind
  the pad token among them. Where *padding changes a row* all the same (Fourier transforms, recurrent states, decoders that
  take no positions), rows of several lengths go through a denoiser one by one, which is slower, and so they do through a
  causal LM that writes texts after prompts of several lengths; FSDP and ZeRO-3 refuse such a denoiser.
- Parameters that no gradient reaches are named, and DDP is told to look for them.

What was found is in the header of the run log (`metadata.backbone`), in `runs show`, `doctor` and the model card.

Below is what was found for transformers {version}; `hf-difflm doctor --backbones` prints it, and measures anew where another
version is installed. `make backbones` measures and writes this page.

"""


def kind_of(verdict: Verdict) -> str:
    """The row of the counts that a verdict belongs to."""
    if verdict.error is not None:
        return "does not run"
    said = verdict_said(verdict)
    if "(refused:" in said:
        return "refused for another reason"
    if verdict.direction != "both sides":
        return verdict.direction
    limited = [reach != -1 for reach in verdict.ahead]
    if not any(limited):
        return "both sides"
    return "both sides, limited reach in " + ("all layers" if all(limited) else "some layers")


def page(version: str, table: families.Table) -> str:
    """The text of docs/backbones.md."""
    roles = ("denoiser", "causal LM")
    counts = {role: Counter(kind_of(table[name][role]) for name in table if role in table[name]) for role in roles}
    kinds = sorted({kind for role in roles for kind in counts[role]}, key=lambda kind: -counts["denoiser"][kind])
    lines = ["| measured | as a denoiser | as a causal LM |", "|---|---|---|"]
    lines += [f"| {kind} | {counts['denoiser'][kind]} | {counts['causal LM'][kind]} |" for kind in kinds]
    lines += [f"| together | {counts['denoiser'].total()} | {counts['causal LM'].total()} |", ""]
    lines += ["| family | as a denoiser | as a causal LM |", "|---|---|---|"]
    for name in sorted(table):
        cells = [_cell(verdict_said(table[name][role])) if role in table[name] else "" for role in roles]
        lines.append(f"| `{name}` | {cells[0]} | {cells[1]} |")
    return _HEAD.format(version=version) + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="walk all families again (minutes)")
    if parser.parse_args().measure:
        names, table = families.families(), {}
        for name, verdicts in families.walk(names):
            table[name] = verdicts
            first = next(iter(verdicts.values()))
            print(f"{len(table):4}/{len(names)} {name}: {first.error or first.direction}", file=sys.stderr, flush=True)
        TABLE.write_text(families.table_text(transformers.__version__, table), encoding="utf-8")
    PAGE.write_text(page(*families.shipped()), encoding="utf-8")


if __name__ == "__main__":
    main()
