"""The network in PyTorch: autoencoder, coarse estimator, vector field."""

from elir_deploy.model.elir import (
    Elir,
    collapse_convolutions,
    count_parameters,
    expand_convolutions,
)

__all__ = ["Elir", "collapse_convolutions", "count_parameters", "expand_convolutions"]
