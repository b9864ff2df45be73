#!/bin/sh
# How a model of the task blind is trained: sh train.sh BSDS500/data/images WORK
# BSDS500's folders train and test hold 400 photographs. Every tenth by name is held out.
# Each command can be stopped at any time; the same command continues.
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
python "$(dirname "$0")/synthetic.py" "$work/train"

# Autoencoder, then encoder and coarse estimator, then the vector field.
elir-train "$work/train" --task blind -o "$work/run" --validation "$work/held" --autoencoder-iterations 6000 --seed 0
