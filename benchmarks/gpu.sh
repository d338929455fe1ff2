#!/usr/bin/env bash
# All that a CPU cannot show, on one GPU, in about 20 minutes:
#
#     benchmarks/gpu.sh [--data COCO] [--only "PART ..."] [--out DIR]
#     benchmarks/gpu.sh --dry              every part on the CPU, at a size that says nothing, in a minute or two
#
# Each part leaves DIR/CARD/PART.md and is left alone where that is there: the same command goes on after an interruption, and
# tries again what failed (its words are in PART.log). DIR/CARD.md, by default below benchmarks/gpu, holds all of them with the
# card's name, the commit and the versions. COCO is a folder with train2017, val2017 and annotations; without, photographs of
# nothing are made. PYTHON names another interpreter than .venv's.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
out=benchmarks/gpu data="" only="" dry=""
while (($#)); do
  case $1 in
    --dry) dry=yes && shift ;;
    --data) data=$2 && shift 2 ;;
    --only) only=$2 && shift 2 ;;
    --out) out=$2 && shift 2 ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 2 ;;
  esac
done
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

if [[ $dry ]]; then
  device=cpu size=tiny half=bf16-mixed batch=2 rounds=1 compile=() gib=0.02 steps=2 card=dry trainer=cpu
  photographs=(--count 12 --size 80 60)
  loop=(--rounds 1 --updates 1 --warm 1 --threads 1 data.batch_size=4)
  small=(backbone.width=16 'backbone.multipliers=[1,1]' 'backbone.attention=[false,true]' condition.width=16 condition.depth=1)
  small+=(condition.heads=1 backbone.head_width=16 condition.vocabulary=300)
  coco=('data.image_shape=[3,64,64]' data.workers=0 autoencoder.encoder.width=16 autoencoder.decoder.width=16)
  stages=(first.steps=1 second.steps=1 data.batch_size=2 data.workers=0 evaluation.samples=2 prior.steps=2 "${small[@]}")
  export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
else
  device=cuda size=ldm_coco half=16-mixed batch=32 rounds=5 compile=(--compile) gib=1 steps=20 trainer=gpu
  photographs=(--count 400)
  loop=(--rounds 2 --updates 20)
  small=() coco=()
  stages=(first.steps=200 second.steps=300 second.compile=true)
  card=$("$python" -c 'import torch; print(torch.cuda.get_device_name().replace(" ", "-"))') || {
    echo "no GPU is here; --dry runs every part on the CPU" && exit 1
  }
fi

folder=$out/$card work=$out/$card/work failed=() names=()
mkdir -p "$work"
if [[ -z $data ]]; then
  data=$work/coco
  [[ -f $data/annotations/captions_val2017.json ]] || "$python" benchmarks/photographs.py "$data" "${photographs[@]}"
fi

# What the page says of the machine.
machine() {
  "$python" - "$device" <<'END'
import platform, subprocess, sys
from importlib.metadata import version
import torch
from ldm.run.machine import code_version, device_name
card = device_name(torch.device(sys.argv[1]))
print(f"# {card}\n\n| | |\n| --- | --- |\n| card | {card} |\n| commit | {code_version()} |\n| python | {platform.python_version()} |")
if torch.cuda.is_available():
    print(f"| memory | {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB |\n| CUDA | {torch.version.cuda} |")
    driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True)
    print(f"| driver | {driver.stdout.strip()} |")
for package in ("torch", "lightning", "diffusers", "safetensors"):
    print(f"| {package} | {version(package)} |")
END
}

# part NAME SECONDS KIND TITLE COMMAND...: run a command within so many seconds; what it says is a `table` or a `text`.
part() {
  local name=$1 limit=$2 kind=$3 title=$4 start=$SECONDS code=0
  shift 4
  names+=("$name")
  if [[ $only && " $only " != *" $name "* ]]; then return; fi
  if [[ -f $folder/$name.md ]]; then echo "$name: there" && return; fi
  echo "$name: $title"
  timeout --kill-after 10 "$limit" "$@" >"$folder/$name.said" 2>"$folder/$name.log" || code=$?
  if ((code)); then
    echo "$name: failed (exit code $code); see $folder/$name.log" && failed+=("$name") && return
  fi
  local command="$*"
  command=${command/#bash -c two_stages*bash /two_stages }
  command=${command//$python/python} command=${command//$data/COCO} command=${command//$work/WORK}
  {
    printf '\n## %s\n\n`%s`, %d s\n\n' "$title" "$command" $((SECONDS - start))
    if [[ $kind == text ]]; then sed 's/^/    /' "$folder/$name.said"; else cat "$folder/$name.said"; fi
  } >"$folder/$name.tmp"
  rm "$folder/$name.said"
  mv "$folder/$name.tmp" "$folder/$name.md"
}

# Both stages of an experiment, of whose words those of the ends are kept.
two_stages() {
  "$python" train.py experiment=ldm_coco_small data.root="$data" trainer="$trainer" logger=none metric=offline \
    runs="$work/runs" store="$work/store" name="$1" "${@:2}" >"$work/$1.txt" || return
  grep -E ' stage |parameters|psnr|ssim|fd_|kd_' "$work/$1.txt" | cut -d ' ' -f 2- | grep -v ' left out'
}
unet=("$python" benchmarks/train_step.py --only unet --device "$device" --size "$size" --rounds "$rounds" --layouts channels_last)
at=(--device "$device" --size "$size" --rounds "$rounds")

part tests 120 text "Tests that need a GPU" "$python" -m pytest -m gpu --disable-warnings -p no:cacheprovider tests/diffusion tests/stage
part unet 120 table "A training step of ldm_coco's U-Net, bfloat16" "${unet[@]}" --precision bf16-mixed
part unet_fp16 90 table "The same in float16" "${unet[@]}" --precision "$half"
part unet_fp32 90 table "The same in float32" "${unet[@]}"
part encode 90 table "The first stage of ldm_coco" "$python" benchmarks/encode.py "${at[@]}" --precision bf16-mixed
part sample 120 table "Samples of ldm_coco" "$python" benchmarks/sample.py "${at[@]}" --precision bf16-mixed --batch "$batch" --steps "$steps"
part loop 180 text "The loop of ldm_coco from JPEG files, and its waits" "$python" benchmarks/loop.py --experiment ldm_coco --waits \
  "${loop[@]}" trainer="$trainer" trainer.precision=bf16-mixed data.root="$data" "${small[@]}" "${coco[@]}"
part loop_fp16 90 text "The loop of shapes in float16" "$python" benchmarks/loop.py --waits "${loop[@]}" trainer="$trainer" \
  trainer.precision="$half" "${small[@]}"
part checkpoint 60 table "A checkpoint of what is on the device" "$python" benchmarks/checkpoint.py --device "$device" --gib "$gib" --place "$work"
export -f two_stages
export python data trainer work
part stages 240 text "Both stages of ldm_coco_small, bfloat16, the second compiled" bash -c 'two_stages "$@"' bash small \
  trainer.precision=bf16-mixed "${stages[@]}"
part unet_compiled 240 table "The step compiled" "${unet[@]}" --precision bf16-mixed "${compile[@]}"

{ machine && for name in "${names[@]}"; do if [[ -f $folder/$name.md ]]; then cat "$folder/$name.md"; fi; done; } >"$folder.tmp"
mv "$folder.tmp" "$folder.md"
echo "$folder.md: $(ls "$folder"/*.md 2>/dev/null | wc -l) of ${#names[@]} parts"
if ((${#failed[@]})); then echo "failed: ${failed[*]}" && exit 1; fi
