#!/usr/bin/env bash
# The paper's distillation on a CUDA machine: 60 000 steps of 16 images for S, then M.
#
#   benchmarks/gpu_distill.sh IMAGES SOURCE OUTPUT [settings of `efficientad distill`]
#
# IMAGES  folder of images or of shards that benchmarks/pack_images.py has packed
# SOURCE  weights file or name of the source network
# OUTPUT  folder for teacher_small.safetensors and teacher_medium.safetensors
#
# The same command goes on where it was stopped. Ctrl-C, or `timeout --signal INT 9m`
# before it, ends a sitting with a checkpoint. A checkpoint is also left in parts of at
# most 15 MiB, which can be moved: on another machine the parts are enough.
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '4,8s/^# *//p' "$0" >&2
    exit 2
fi
images=$1 source=$2 output=$3
shift 3
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$output"

teacher=
leave_parts() {
    if [ -n "$teacher" ] && [ -f "$teacher.checkpoint" ]; then
        rm -f "$teacher.checkpoint.part-"*
        split --bytes 15M --numeric-suffixes "$teacher.checkpoint" "$teacher.checkpoint.part-"
    fi
}
trap leave_parts EXIT

for size in small medium; do
    teacher=$output/teacher_$size.safetensors
    if [ -f "$teacher" ]; then
        echo "$teacher is there"
        continue
    fi
    if [ ! -f "$teacher.checkpoint" ] && [ -f "$teacher.checkpoint.part-00" ]; then
        cat "$teacher.checkpoint.part-"* >"$teacher.checkpoint"
    fi
    "${PYTHON:-python3}" -c 'from efficientad.cli import main; raise SystemExit(main())' \
        distill "$images" --source "$source" --size "$size" --output "$teacher" \
        --preset paper --mixed-precision --checkpoint-every 2000 \
        --snapshots 0.1 0.3 --resume "$@"
    rm -f "$teacher.checkpoint" "$teacher.checkpoint.part-"*
done
teacher=
