#!/usr/bin/env bash
# Train on several GPUs of one machine, or on several processes of a CPU: tools/dist_train.sh CONFIG PROCESSES [ARGUMENTS]
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]" >&2
    exit 2
fi
config=$1 processes=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH="$here/..:${PYTHONPATH:-}" exec python -m torch.distributed.run --standalone --nproc_per_node="$processes" \
    "$here/train.py" "$config" --launcher pytorch "$@"
