#!/bin/sh
# The recipe of the packaged model: sh train.sh BSDS500/data/images WORK
# BSDS500's folders train and test hold 400 photographs. Every tenth by name is held out.
# The command can be stopped at any time; the same one continues.
set -eu
photos=$(cd "$1" && pwd)
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
elir-train "$work/train" --task tiny -o "$work/run" --validation "$work/held" --autoencoder-iterations 6000 --seed 0
