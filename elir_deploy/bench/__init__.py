"""Honest benchmarks: several ways to run one model, measured side by side in one run.

``protocols`` takes the samples, ``runners`` and ``peers`` are what is measured, ``statistics``
and ``device`` say what the numbers mean, ``report`` writes them down.
"""
