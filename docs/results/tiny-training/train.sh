#!/bin/sh
# How the packaged model was trained: sh train.sh BSDS500/data/images WORK
# BSDS500's folders train and test hold 400 photographs. Every tenth by name is held out.
set -eu
photos=$1
work=$2
mkdir -p "$work/train" "$work/held"
number=0
for photo in $(ls "$photos"/train/*.jpg "$photos"/test/*.jpg | awk -F/ '{ print $NF, $0 }' | sort | cut -d' ' -f2)
do
    if [ $((number % 10)) -eq 0 ]; then ln -sf "$photo" "$work/held/"; else ln -sf "$photo" "$work/train/"; fi
    number=$((number + 1))
done

# Autoencoder, then encoder, coarse estimator and vector field together.
elir-train "$work/train" --task tiny -o "$work/first" --validation "$work/held" \
    --sigma-s 0.1 --iterations 2600 --flow-iterations 0 --seed 0

# The vector field alone, with less noise on the coarse latent.
elir-train "$work/train" --task tiny -o "$work/second" --validation "$work/held" \
    --from "$work/first/tiny.over-parametrised.safetensors" \
    --autoencoder "$work/first/autoencoder.safetensors" \
    --sigma-s 0.04 --iterations 0 --flow-iterations 2000 --seed 0
