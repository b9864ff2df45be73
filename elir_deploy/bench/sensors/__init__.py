"""Readings of the machine that a benchmark's figures depend on; on Linux, else unknown.

Nothing here raises because a sensor is missing, forbidden or broken.
"""
