#!/usr/bin/env bash
# The paper's distillation on a CUDA machine: 60 000 steps of 16 images for S, then M.
#
#   lab/experiments/teachers/distill.sh IMAGES SOURCE OUTPUT [settings of `efficientad distill`]
#
# IMAGES  folder of images or of shards that pack_images.py has packed
# SOURCE  weights file or name of the source network
# OUTPUT  folder for teacher_small.safetensors and teacher_medium.safetensors
#
# The same command goes on where it was stopped. Ctrl-C, or `timeout --signal INT 9m`
# before it, ends a sitting with a checkpoint. A checkpoint is also left in parts of at
# most 15 MiB (teacher_….checkpoint.part-*), which can be moved: on another machine the
# parts are enough, and newer ones replace the checkpoint that is there.
set -euo pipefail
if [ $# -lt 3 ]; then
    sed -n '4,8s/^# *//p' "$0" >&2
    exit 2
fi
images=$1 source=$2 output=$3
shift 3
root=$(cd "$(dirname "$0")/../../.." && pwd)
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$output"

teacher=
# Parts are as old as the checkpoint they were made of, so those from elsewhere tell.
leave_parts() {
    local checkpoint=$teacher.checkpoint
    if [ -z "$teacher" ] || [ ! "$checkpoint" -nt "$checkpoint.part-00" ]; then
        return
    fi
    rm -rf "$checkpoint.splitting"
    mkdir "$checkpoint.splitting"
    split --bytes 15M --numeric-suffixes "$checkpoint" "$checkpoint.splitting/part-"
    sha256sum <"$checkpoint" >"$checkpoint.splitting/part-sum"
    touch --reference "$checkpoint" "$checkpoint.splitting/part-"*
    rm -f "$checkpoint.part-"*
    for part in "$checkpoint.splitting/part-"*; do
        mv "$part" "$checkpoint.${part##*/}"
    done
    rmdir "$checkpoint.splitting"
}
join_parts() {
    local checkpoint=$teacher.checkpoint part is_newer=
    for part in "$checkpoint.part-"*; do
        if [ "$part" -nt "$checkpoint" ]; then is_newer=1; fi
    done
    if [ -z "$is_newer" ]; then
        return
    fi
    cat "$checkpoint.part-"[0-9]* >"$checkpoint.joining" || true
    if ! sha256sum --status --check "$checkpoint.part-sum" <"$checkpoint.joining"; then
        rm -f "$checkpoint.joining"
        echo "$0: the parts $checkpoint.part-* must be those of one checkpoint and its" \
            "part-sum, some are missing or damaged; copy all of them again, or remove" \
            "them to go on without" >&2
        teacher=
        exit 2
    fi
    # Clocks differ: from here on this machine's tells what is newer.
    touch "$checkpoint.joining"
    touch --reference "$checkpoint.joining" "$checkpoint.part-"*
    if [ -f "$checkpoint" ]; then
        mv "$checkpoint" "$checkpoint.before"
        echo "$0: $checkpoint is now that of the newer parts; what it was is" \
            "$checkpoint.before" >&2
    fi
    mv "$checkpoint.joining" "$checkpoint"
}
trap leave_parts EXIT

for size in small medium; do
    teacher=$output/teacher_$size.safetensors
    if [ -f "$teacher" ]; then
        echo "$teacher is there"
        continue
    fi
    join_parts
    "${PYTHON:-python3}" -c 'from efficientad.cli.main import main; raise SystemExit(main())' \
        distill "$images" --source "$source" --size "$size" --output "$teacher" \
        --preset paper --mixed-precision --checkpoint-every 2000 \
        --snapshots 0.1 0.3 --resume "$@"
    rm -f "$teacher.checkpoint" "$teacher.checkpoint.before" "$teacher.checkpoint.part-"*
done
teacher=
