#!/usr/bin/env bash
# deepspeed 0.19.8: on a machine where it finds no GPU, importing it writes a WARNING line on stdout, not on stderr: its
# logger has a handler of its own on sys.stdout and passes nothing on, so that `logging.basicConfig(stream=sys.stderr)`
# does not move it. transformers and accelerate import it when it is installed and an engine is looked for: what a program
# prints for other programs (`--json`, a table piped into a file) then begins with that line.
# Seen: stdout holds "[WARNING] ... Setting accelerator to CPU", stderr holds nothing of it; a filter on the logger that is
# set before the import takes it away.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 setuptools
"$work/venv/bin/pip" install --quiet --disable-pip-version-check deepspeed==0.19.8
cd "$work"
export CUDA_VISIBLE_DEVICES=""
"$work/venv/bin/python" -c '
import logging, sys
logging.basicConfig(stream=sys.stderr)
import deepspeed
print(deepspeed.__version__, file=sys.stderr)' > out 2> err
echo "stdout: $(cat out)"
grep -q "WARNING.*Setting accelerator to CPU" out || { echo "this has changed"; exit 1; }
! grep -q "Setting accelerator to CPU" err || { echo "this has changed"; exit 1; }
"$work/venv/bin/python" -c '
import logging
logging.getLogger("DeepSpeed").addFilter(lambda record: False)
import deepspeed' > out 2> err
[ ! -s out ] || { echo "this has changed: $(cat out)"; exit 1; }
echo "as described"
