"""Bundles for other servers: ``triton`` writes model repositories."""
