"""Loading and saving weights files.

A file is read in three steps, a module each: ``containers`` opens it and lists its tensors without
executing anything in it (``pickles`` for torch's own format); ``layouts`` translates their names
(``names`` has the rules), derives the architecture from the shapes and checks every tensor;
``loading`` determines the task. ``files`` writes this project's format and ``released`` downloads
the authors' weights.
"""

from elir_deploy.checkpoints.loading import (
    Checkpoint,
    load_autoencoder,
    load_checkpoint,
    save_checkpoint,
)

__all__ = ["Checkpoint", "load_autoencoder", "load_checkpoint", "save_checkpoint"]
