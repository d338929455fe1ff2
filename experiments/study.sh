# What the run.sh of the studies share, sourced by them: sh run.sh DATA RUNS [BUDGET [SEEDS [WORD ...]]]
#
# BUDGET is what a training may cost: seconds=60, and where others use the machine, too, cpu_seconds=60; or images= or flops=.
# SEEDS are 0,1,2; WORDs are of train.py, as trainer=cpu. Of the environment PYTHON is another interpreter, SAMPLES another number of
# samples. A job that fails harms no other, and the same command tries it again; one that is stopped (75) stops the study.
set -eu
if [ $# -lt 2 ]; then sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0" && exit 2; fi
data=$1 runs=$2 budget=${3:-$default_budget} seeds=${4:-0,1,2}
shift $(($# < 4 ? $# : 4))
unit=${budget%%=*} total=${budget#*=} words=$* one=${seeds%%,*}
python=${PYTHON:-python} samples=${SAMPLES:-1000} store=$runs/store
for word in "$@"; do case $word in store=*) store=${word#store=} ;; esac; done

mkdir -p "$runs"

# Whether to go on after a command that ended with this code.
go_on() { case $1 in 0 | 1) ;; *) exit "$1" ;; esac; }

# A sweep: its name, and words of train.py.
sweep() {
  name=$1 && shift
  # shellcheck disable=SC2086
  $python train.py -m "name=$name" "runs=$runs" "store=$store" "seed=choice($seeds)" logger=none data.workers=0 \
    first.validate_every=0 second.validate_every=0 second.picture_every=1000000 second.snapshots=0 evaluation.reference_images=all \
    "evaluation.samples=$samples" $words "$@" && code=0 || code=$?
  go_on $code
}

# Runs of a sweep, measured once more by these words of evaluate.py; what was measured so before is left alone.
measure() {
  name=$1 && shift
  for run in "$runs/$name"/*; do
    if [ -d "$run/model" ]; then
      $python evaluate.py "run=$run" missing=true data.workers=0 "$@" && code=0 || code=$?
      go_on $code
    fi
  done
}
