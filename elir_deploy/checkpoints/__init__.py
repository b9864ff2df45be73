"""Weights files of every layout to a model and back.

A file is read in three steps, a module each: ``containers`` opens it and lists its tensors without
running anything in it (``pickles`` for torch's own format), ``layouts`` maps their names to ours,
reads the architecture off the shapes and checks every tensor, ``loading`` settles the task.
``files`` writes our own format and ``released`` fetches the authors' weights.
"""

from elir_deploy.checkpoints.loading import (
    Checkpoint,
    load_autoencoder,
    load_checkpoint,
    save_checkpoint,
)

__all__ = ["Checkpoint", "load_autoencoder", "load_checkpoint", "save_checkpoint"]
