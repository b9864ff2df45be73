"""Benchmarks of bundles: runners measured side by side in one run.

``protocols`` says what a run consists of, ``runs`` performs one; ``runners`` and ``peers`` are what
is measured; ``measurement``, ``throughput`` and ``soak`` take samples, ``report`` presents them.
"""
