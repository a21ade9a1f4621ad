#!/usr/bin/env bash
# Everything that only a GPU can tell, in at most 8 minutes, the most telling first:
#
#   bash benchmarks/gpu.sh [--device cpu --toy] [--output FOLDER] [--seconds N] [--parts "gpu_check gpu_sample"]
#
# Each part is a process of its own that keeps its JSON in FOLDER (default: runs/gpu) as it goes, so one that fails or is cut
# off loses nothing but its row; a second call with the same FOLDER leaves out the parts that are done and goes on with the
# others. Copied to benchmarks/results/ as soon as a part ends, but for --toy, which measures nothing. PYTHON=... chooses the
# interpreter; nothing has to be installed beside torch, transformers, accelerate, numpy, safetensors, typer and rich.
set -uo pipefail
cd "$(dirname "$0")/.."

device=cuda toy="" folder=runs/gpu seconds=470 only=""
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:?--device wants cuda or cpu}; shift 2 ;;
    --output) folder=${2:?--output wants a folder}; shift 2 ;;
    --seconds) seconds=${2:?--seconds wants a number}; shift 2 ;;
    --parts) only=${2:?--parts wants their names}; shift 2 ;;
    --toy) toy=--toy; shift ;;
    *) echo "gpu.sh: unknown argument $1: see the first lines of $0" >&2; exit 2 ;;
  esac
done
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export TORCHINDUCTOR_FX_GRAPH_CACHE=1  # what one part has compiled the next one need not
mkdir -p "$folder"
exec 3>>"$folder/gpu.log"

# Name, seconds kept for it while those before it run, and its command.
parts=(
  "gpu_check 50 gpu_check.py"
  "gpu_train_124M 110 gpu_train.py --sizes 124M --no-eager --steps 20"
  "gpu_sample 80 gpu_sample.py --pairs 2 --new-tokens 511 --steps 128"
  "gpu_train_350M 100 gpu_train.py --sizes 350M --no-eager --steps 10"
  "gpu_attention 30 gpu_attention.py"
  "gpu_memory 30 gpu_memory.py"
  "gpu_profile 50 gpu_profile.py"
)
if [ -n "$toy" ]; then  # as quick as it can be; one part still tries the real compiler
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  parts=(
    "gpu_check 30 gpu_check.py --backend aot_eager"
    "gpu_train_124M 60 gpu_train.py --no-eager"
    "gpu_sample 20 gpu_sample.py --pairs 1 --backend eager"
    "gpu_train_350M 20 gpu_train.py --no-eager --backend aot_eager --sides labelled"
    "gpu_attention 20 gpu_attention.py --pairs 1 --repeats 2"
    "gpu_memory 20 gpu_memory.py"
    "gpu_profile 20 gpu_profile.py --backend aot_eager"
  )
fi

if [ -n "$only" ]; then
  chosen=()
  for name in $only; do
    before=${#chosen[@]}
    for part in "${parts[@]}"; do
      [ "${part%% *}" != "$name" ] || chosen+=("$part")
    done
    [ "${#chosen[@]}" -gt "$before" ] || { echo "gpu.sh: no part is called $name: choose of ${parts[*]%% *}" >&2; exit 2; }
  done
  parts=("${chosen[@]}")
fi

# finished FILE: whether it holds a finished result of this device and size.
finished() {
  [ -f "$1" ] && "$python" - "$1" "$device" "$toy" <<'PY'
import json, sys
result = json.load(open(sys.argv[1]))
asked = result["asked"]
sys.exit(not (result["finished"] and asked["device"] == sys.argv[2] and asked["toy"] == bool(sys.argv[3])))
PY
}

start=$SECONDS failed=0
for ((i = 0; i < ${#parts[@]}; i++)); do
  read -r name kept script arguments <<<"${parts[i]}"
  if finished "$folder/$name.json" 2>&3; then
    echo "$name: there already"
    continue
  fi
  later=0
  for ((j = i + 1; j < ${#parts[@]}; j++)); do
    read -r next share _ <<<"${parts[j]}"
    finished "$folder/$next.json" 2>&3 || later=$((later + share))
  done
  left=$((seconds - (SECONDS - start) - later))
  if [ "$left" -lt 15 ]; then
    echo "$name: not begun, the time is over; call again"
    failed=1
    continue
  fi
  began=$SECONDS
  # shellcheck disable=SC2086
  timeout --kill-after=5 "$left" "$python" "benchmarks/$script" $arguments $toy --device "$device" \
    --budget "$((left * 2 / 3))" --output "$folder/$name.json" >&3 2>&1
  code=$?
  case $code in
    0) said="done" ;;
    1) said="some rows are missing or failed: $folder/gpu.log" ;;
    124 | 137) said="cut off after $left s; what it had is kept" ;;
    *) said="failed with status $code: $folder/gpu.log" ;;
  esac
  [ "$code" -eq 0 ] || failed=1
  echo "$name: $said ($((SECONDS - began)) s)"
  if [ -z "$toy" ] && [ -f "$folder/$name.json" ]; then
    cp "$folder/$name.json" benchmarks/results/
  fi
done
echo "$((SECONDS - start)) s in all; results in $folder"
exit $failed
