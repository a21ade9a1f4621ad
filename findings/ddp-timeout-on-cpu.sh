#!/usr/bin/env bash
# transformers 5.23.0: `TrainingArguments(use_cpu=True, ddp_timeout=77)` starts the process group with torch's own half hour.
# Without use_cpu, on the same machine and over the same gloo, the 77 seconds arrive; nothing says that they do not.
# Guessed: 77 either way. Seen: 77 without use_cpu, 1800 with it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 transformers==5.23.0 accelerate==1.15.0
cat > "$work/seconds.py" <<'PY'
import sys

import torch
import transformers

transformers.TrainingArguments("unused", use_cpu=sys.argv[1] == "cpu", ddp_timeout=77)
print(torch.distributed.distributed_c10d._get_default_store().timeout.seconds)
PY
seconds() {
  WORLD_SIZE=1 RANK=0 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=0 CUDA_VISIBLE_DEVICES="" \
    "$work/venv/bin/python" "$work/seconds.py" "$1" 2>/dev/null
}
without=$(seconds any) with=$(seconds cpu)
echo "ddp_timeout=77: $without s without use_cpu, $with s with it"
[ "$without" = 77 ] && [ "$with" = 1800 ] || { echo "this has changed"; exit 1; }
echo "as described"
