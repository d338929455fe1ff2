#!/bin/sh
# The whole study: sh experiments/samplers/run.sh OUT SHAPES_RUN EMOJI_RUN
# (runs of `python train.py experiment=shapes` and `experiment=emoji`; about a quarter of an hour of one core)
set -e
here=$(dirname "$0")
export OMP_NUM_THREADS=1
python "$here/study.py" "$2" "$1/shapes"
python "$here/report.py" "$1/shapes" --title shapes --checker "$1/checker.safetensors" --into "$here"
python "$here/study.py" "$3" "$1/emoji" --small
python "$here/report.py" "$1/emoji" --title emoji
