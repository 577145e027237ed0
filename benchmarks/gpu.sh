#!/usr/bin/env bash
# Check, then measure training and inference on a CUDA machine. Options: gpu.py --help
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH="src:benchmarks${PYTHONPATH:+:$PYTHONPATH}" \
    exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
