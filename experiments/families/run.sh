#!/bin/sh
# Every family of priors on the latents of one first stage of Fashion-MNIST, by label:
#
#     sh experiments/families/run.sh DATA RUNS [BUDGET [SEEDS [WORD ...]]]
#
# DATA holds {train,test}.parquet; RUNS gets budget/ (each family by its recipe), parameters/ (each at about half a million parameters), their
# reports, tables, plots and grids. BUDGET is of the prior's training (seconds=120; cpu_seconds=120 where others use the machine, too); the
# first stage is that of the recipe, trained once a seed. SEEDS (0,1,2) come one after the other, so that what is broken off is a whole
# table; families whose samples are dear have the first alone. WORDs are of train.py, as trainer=cpu. FAMILIES are some of those
# below; PARTS some of: budget parameters.
default_budget=seconds=120
. "$(dirname "$0")/../study.sh"
three=$seeds
families=${FAMILIES:-normal mixture gan mean_flow realnvp glow spline maf naf tarflow pixelcnn transformer diffusion consistency ebm equilibrium ot_flow cnf}

# The experiment of a family.
recipe() {
  case $1 in
    normal | mixture) echo "experiment=fashion_mnist prior=$1" ;;
    diffusion) echo experiment=fashion_mnist ;;
    *) echo "experiment=fashion_mnist_$1" ;;
  esac
}

# What brings a family to about half a million parameters; naf has a million with the narrowest network that is of use.
size() {
  case $1 in
    mixture) echo prior.components=800 ;;
    gan) echo prior.generator.width=88 prior.critic.width=88 ;;
    ebm) echo prior.network.width=128 ;;
    diffusion | mean_flow | ot_flow | equilibrium) echo backbone.width=20 ;;
    realnvp | spline) echo prior.network.width=20 ;;
    glow) echo prior.network.width=28 ;;
    maf) echo prior.width=64 ;;
    naf) echo prior.width=32 ;;
    tarflow) echo prior.width=48 ;;
    pixelcnn) echo prior.network.width=48 ;;
    transformer) echo prior.network.width=96 ;;
  esac
}

# A family's runs below a part: its name, the part, and words.
train() {
  family=$1 part=$2 && shift 2
  # shellcheck disable=SC2046
  sweep "$part/$family" $(recipe "$family") "data.root=$data" cache_latents=true metric=classifier "second.budget.$unit=$total" "$@"
}

for part in ${PARTS:-budget parameters}; do
  mkdir -p "$runs/$part"
  for seeds in $(echo "$three" | tr , ' '); do # one after the other, so that what is broken off is a whole table
    for family in $families; do
      case $family in ebm | equilibrium | ot_flow | cnf) [ "$seeds" = "$one" ] || continue ;; esac
      case $part.$family in
        parameters.normal | parameters.consistency | parameters.cnf) continue ;; # of no parameters, of another's, of another network
        budget.consistency) train consistency budget "prior.checkpoint=$runs/budget/diffusion/seed-$seeds" ;;
        budget.cnf) train cnf budget "prior.checkpoint=$runs/budget/ot_flow/seed-$seeds" ;;
        budget.*) train "$family" budget ;;
        # shellcheck disable=SC2046
        parameters.*) train "$family" parameters $(size "$family") ;;
      esac
    done
  done
  folders=
  for family in $families; do [ ! -d "$runs/$part/$family" ] || folders="$folders $runs/$part/$family"; done
  # shellcheck disable=SC2086
  $python -m ldm report $folders by=prior "out=$runs/$part/report"
  $python -m experiments.families.table "$runs/$part" > "$runs/$part/table.md"
  cat "$runs/$part/table.md"
done
