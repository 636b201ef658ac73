#!/usr/bin/env bash
# Train on several GPUs of one machine, or in several processes on its CPU: tools/dist_train.sh CONFIG PROCESSES [ARGUMENTS]
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
# wrong input ends here, in one process with one message
python "$here/train.py" "$config" --launcher pytorch --check "$@"
exec python -m torch.distributed.run --standalone --nproc_per_node="$processes" \
    "$here/train.py" "$config" --launcher pytorch "$@"
