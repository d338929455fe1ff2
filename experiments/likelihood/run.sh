#!/bin/sh
# Bits per dimension of digits or clothes, by models of pixels:
#
#     sh experiments/likelihood/run.sh DATA RUNS [BUDGET [SEEDS [WORD ...]]]
#
# DATA holds {train,test}.parquet of MNIST, or with DATASET=fashion_mnist of Fashion-MNIST (28 px); RUNS gets DATASET/ with the runs, report/
# and table.md. BUDGET is of each training (seconds=3000), WORDs are of train.py, as trainer=cpu. MODELS are some of vae spline realnvp
# glow tarflow pixelcnn diffusion cnf. The likelihood of the last two is hundreds of network evaluations an image: DENSITIES (100) images.
default_budget=seconds=3000
. "$(dirname "$0")/../study.sh"
set_name=${DATASET:-mnist} runs=$runs/${DATASET:-mnist} && mkdir -p "$runs"
models=${MODELS:-vae spline realnvp glow tarflow pixelcnn diffusion cnf}
law='metric.bits_per_dim.decoder={_target_: ldm.metric.decoder_law.DiscretisedLogistic}'

pixels() { # a model's name, its experiment, images whose likelihood is measured, and further words
  model=$1 experiment=$2 samples=$3 && shift 3
  sweep "$model" "experiment=$experiment" "data=$set_name" "data.root=$data" 'data.image_shape=[1,28,28]' metric=bits_per_dim \
    "second.budget.$unit=$total" "$@"
}

for model in $models; do
  case $model in
    vae)
      sweep vae experiment=mnist_vae "data=$set_name" "data.root=$data" 'data.image_shape=[1,28,28]' metric=bits_per_dim "$law" \
        "first.budget.$unit=$total" ;;
    diffusion) pixels diffusion mnist_pixels "${DENSITIES:-100}" ;;
    cnf) pixels cnf mnist_pixels_cnf "${DENSITIES:-100}" ;;
    *) pixels "$model" "mnist_pixels_$model" "${SAMPLES:-1000}" ;;
  esac
done
folders=
for model in $models; do folders="$folders $runs/$model"; done
# shellcheck disable=SC2086
$python -m ldm report $folders by=prior,autoencoder "out=$runs/report"
$python -m experiments.likelihood.table "$runs" > "$runs/table.md"
cat "$runs/table.md"
