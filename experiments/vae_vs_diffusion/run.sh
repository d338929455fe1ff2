#!/bin/sh
# A VAE against diffusions of latents and of pixels, trained at the same cost:
#
#     sh experiments/vae_vs_diffusion/run.sh DATA RUNS [BUDGET [SEEDS [WORD ...]]]
#
# DATA holds Fashion-MNIST's {train,test}.parquet; RUNS gets the runs, report/ and table.md. BUDGET (seconds=60; cpu_seconds=60 where
# others use the machine, too) is that of each model in all, SEEDS are 0,1,2, WORDs are of train.py, as trainer=cpu. The same command goes
# on where it was stopped. CIFAR10=DIR adds that data set, once; PYTHON is another interpreter, SAMPLES another number of samples than
# 1000, BITS of images whose bits and paths are measured (50), PARTS some of these: main bits steps quarter little rates shapes cifar.
default_budget=seconds=60
. "$(dirname "$0")/../study.sh"
parts=${PARTS:-main bits steps quarter little rates shapes cifar}

# Each model, without labels: a prefix of its sweep's name, what it may cost in all, and words of train.py.
vae() {
  prefix=$1 cost=$2 && shift 2
  sweep "${prefix}vae" experiment=fashion_mnist_vae "first.budget.$unit=$cost" "$@"
}
latent() {
  prefix=$1 cost=$2 && shift 2
  sweep "${prefix}latent" experiment=fashion_mnist condition=none \
    "first.budget.$unit=$((cost / 2))" "second.budget.$unit=$((cost - cost / 2))" "$@"
}
pixel() {
  prefix=$1 cost=$2 && shift 2
  sweep "${prefix}pixel" experiment=fashion_mnist condition=none autoencoder=identity stage@first=none \
    backbone.patch=4 cache_latents=false "second.budget.$unit=$cost" "$@"
}
models() { vae "$@" && latent "$@" && pixel "$@"; }

clothes="data.root=$data" quality='metric=[classifier,reconstruction,probe]' three=$seeds
law='metric.bits_per_dim.decoder={_target_: ldm.metric.decoder_law.DiscretisedLogistic}'

for part in $parts; do
  case $part in
    main) # seed by seed, so that what is broken off is a whole table
      for seeds in $(echo "$three" | tr , ' '); do models "" "$total" "$clothes" "$quality"; done
      seeds=$three ;;
    bits) # a density by the probability-flow ODE is hundreds of network calls an image, a path's length two samples more
      for model in vae latent pixel; do
        measure $model 'metric=[bits_per_dim,path_length]' "$law" "samples=${BITS:-50}"
      done ;;
    steps)
      for model in latent pixel; do
        for steps in 1 2 5; do measure $model metric=classifier "steps=$steps"; done
      done ;;
    little) # the classifier and the distances are those of the whole set
      for share in 1 10; do
        models "little$share-" "$total" "$clothes" "data.train.split=train[:$share%]" metric=none
        for model in vae latent pixel; do
          measure "little$share-$model" metric=classifier data.train.split=train evaluation.reference_images=all
        done
      done ;;
    rates)
      seeds=$one
      vae rates- "$total" "$clothes" metric=classifier first.optimizer.lr=6e-4,6e-3
      latent rates- "$total" "$clothes" metric=classifier second.optimizer.lr=4.5e-4,4.5e-3
      pixel rates- "$total" "$clothes" metric=classifier second.optimizer.lr=4.5e-4,4.5e-3
      seeds=$three ;;
    quarter) models quarter- "$((total / 4))" "$clothes" metric=classifier ;;
    shapes) models shapes- "$total" data=shapes data.train.count=12000 metric=modes ;;
    cifar)
      seeds=$one
      if [ -n "${CIFAR10:-}" ]; then models cifar- "$total" data=cifar10 "data.root=$CIFAR10" "$quality"; fi
      seeds=$three ;;
  esac
done
$python -m ldm report "$runs/vae" "$runs/latent" "$runs/pixel" by=prior,autoencoder.encoder "out=$runs/report"
$python -m experiments.vae_vs_diffusion.table "$runs" > "$runs/table.md"
cat "$runs/table.md"
