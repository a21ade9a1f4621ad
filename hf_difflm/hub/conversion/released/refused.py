"""Released models that are not converted, by name and reason: to run them as something else would be to invent numbers."""

from __future__ import annotations

# Model type or architecture -> what it is and why not.
_LLADA2 = (
    "LLaDA2, whose experts are chosen by a sigmoid with a bias and in groups, and whose heads are rotated by half: no network "
    "of transformers computes that"
)
_NEMOTRON = (
    "Nemotron-Labs-Diffusion, which reads committed text causally and the open block both ways, with an autoregressive head for "
    "the first token of a block: no block diffusion here reads so"
)
_DUO = "Duo, which replaces tokens by others (uniform noise) and has no mask token; the models here hide tokens"
_GEMMA = (
    "DiffusionGemma, which replaces tokens by others (uniform noise) and conditions on its own last prediction; the models here "
    "hide tokens; generate with transformers, which has it"
)
REFUSED = {
    "llada2_moe": _LLADA2,
    "llada2_moe_veomni": _LLADA2,
    "LLaDA2MoeModelLM": _LLADA2,
    "nemotron_labs_diffusion": _NEMOTRON,
    "NemotronLabsDiffusionModel": _NEMOTRON,
    "duo": _DUO,
    "DUO": _DUO,
    "diffusion_gemma": _GEMMA,
    "DiffusionGemmaForBlockDiffusion": _GEMMA,
}
