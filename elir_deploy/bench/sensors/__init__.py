"""What a benchmark figure needs to be believed, read from the machine.

``state`` is the machine at one moment: clocks, temperatures, what throttled it, power modes, GPUs.
``energy`` adds up joules, ``memory`` tells a process's, ``affinity`` the cores it may use. Linux
only; elsewhere everything is unknown. Nothing here raises because a sensor is missing, forbidden or
broken.
"""

from elir_deploy.bench.sensors.affinity import Affinity
from elir_deploy.bench.sensors.energy import EnergyMeter
from elir_deploy.bench.sensors.memory import rss_bytes
from elir_deploy.bench.sensors.nvml import Nvml
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
