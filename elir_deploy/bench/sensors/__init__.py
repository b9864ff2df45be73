"""Readings of the machine that a benchmark's figures depend on; on Linux, else unknown.

Nothing here raises because a sensor is missing, forbidden or broken.
"""

from elir_deploy.bench.sensors.energy import EnergyMeter
from elir_deploy.bench.sensors.nvml import Nvml
from elir_deploy.bench.sensors.process import Affinity, rss_bytes
from elir_deploy.bench.sensors.state import State, read_state, throttled_between

__all__ = [
    "Affinity",
    "EnergyMeter",
    "Nvml",
    "State",
    "read_state",
    "rss_bytes",
    "throttled_between",
]
