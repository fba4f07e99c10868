#!/bin/sh
# The check for a machine with a GPU, below 8 minutes: ./benchmarks/gpu.sh [FOLDER FOR THE RESULTS]
# Wheels to bring where nothing can be fetched: see "A machine with a GPU" in CONTRIBUTING.md.
set -e
cd "$(dirname "$0")/.."
status=0
PYTHONPATH=.:$PYTHONPATH python3 -m benchmarks.gpu --device cuda || status=$?
if [ -n "$1" ]; then cp benchmarks/results/gpu.* "$1"; fi
exit $status
