#!/bin/sh
# The two-stage trade-off: what first stages of Fashion-MNIST reconstruct, and what priors make of their latents:
#
#     sh experiments/autoencoders/run.sh DATA RUNS [BUDGET [SEEDS [WORD ...]]]
#
# DATA holds {train,test}.parquet; RUNS gets the sweeps diffusion/STAGE, pixelcnn/STAGE and transformer/STAGE, report/ and table.md. Half of BUDGET
# (seconds=120; cpu_seconds=120 where others use the machine, too) trains a first stage, half a prior of it. SEEDS are 0,1,2, one
# after the other, so that what is broken off is a whole table. WORDs are of train.py, as trainer=cpu. STAGES are some of those below.
default_budget=seconds=120
. "$(dirname "$0")/../study.sh"
stages=${STAGES:-base faint strong narrow wide pyramid vq} three=$seeds
quality='metric=[classifier,reconstruction]'
rfd='metric.reconstruction_distances.networks.classifier={_target_: ldm.metric.classifier.OwnClassifier}'

# How a first stage differs from that of the recipe: 4 channels, weight 1e-6 of the divergence, squared error alone.
stage_words() {
  case $1 in
    base) ;;
    faint) echo loss.kl_weight=1e-4 ;;
    strong) echo loss.kl_weight=1e-2 ;;
    narrow) echo autoencoder.bottleneck.channels=2 ;;
    wide) echo autoencoder.bottleneck.channels=8 ;;
    pyramid) echo loss=kl_pyramid ;;
    vq) echo autoencoder=vq_f4_small ;;
  esac
}

# A prior of a first stage: both names, and words.
prior_of() {
  prior=$1 stage=$2 && shift 2
  # shellcheck disable=SC2046
  sweep "$prior/$stage" "$@" $(stage_words "$stage") "data.root=$data" "$quality" "$rfd" cache_latents=false \
    "first.budget.$unit=$((total / 2))" "second.budget.$unit=$((total - total / 2))"
}

for seeds in $(echo "$three" | tr , ' '); do
  for stage in $stages; do
    case $stage in
      vq) prior_of transformer vq experiment=fashion_mnist_transformer ;;
      *) prior_of diffusion "$stage" experiment=fashion_mnist ;;
    esac
    prior_of pixelcnn "$stage" experiment=fashion_mnist_pixelcnn
  done
done
folders=
for folder in "$runs"/diffusion/* "$runs"/transformer/* "$runs"/pixelcnn/*; do
  [ ! -d "$folder" ] || folders="$folders $folder"
done
# shellcheck disable=SC2086
$python -m ldm report $folders "out=$runs/report"
$python -m experiments.autoencoders.table "$runs" > "$runs/table.md"
cat "$runs/table.md"
