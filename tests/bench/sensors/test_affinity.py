"""Cores, and how they differ."""

from __future__ import annotations

import json
import os

import pytest

from elir_deploy.bench.sensors.affinity import Affinity, CoreKind, NumaNode
from tests.bench.sensors import trees
from tests.bench.sensors.trees import CPUS, plant


def test_hybrid_desktop(tmp_path):
    found = Affinity.read(trees.desktop_intel(tmp_path), lambda: range(6))
    assert found.allowed == found.online == (0, 1, 2, 3, 4, 5)
    assert found.physical_cores == ((0, 1), (2, 3), (4,), (5,))
    # 4.9 and 5.0 GHz are the same kind of core.
    assert found.kinds == (
        CoreKind((0, 1, 2, 3), None, 5000),
        CoreKind((4, 5), None, 3800),
    )
    assert found.nodes == (NumaNode(0, (0, 1, 2, 3, 4, 5)),)
    assert found.quota_cores is None


def test_a_process_that_is_pinned(tmp_path):
    found = Affinity.read(trees.desktop_intel(tmp_path), lambda: {3, 4})
    assert found.allowed == (3, 4)
    assert found.physical_cores == ((3,), (4,))
    assert [kind.cores for kind in found.kinds] == [(3,), (4,)]
    assert found.nodes == (NumaNode(0, (3, 4)),)


def test_big_and_little_cores(tmp_path):
    for cpu in range(6):
        capacity, clock = (446, 1_800_000) if cpu < 4 else (1024, 2_208_000)
        plant(
            tmp_path,
            {
                f"{CPUS}/cpu{cpu}/cpu_capacity": capacity,
                f"{CPUS}/cpu{cpu}/cpufreq/cpuinfo_max_freq": clock,
            },
        )
    found = Affinity.read(tmp_path, lambda: range(6))
    assert found.kinds == (CoreKind((4, 5), 1024, 2208), CoreKind((0, 1, 2, 3), 446, 1800))


def test_clusters_of_equal_cores(tmp_path):
    found = Affinity.read(trees.orin_nano(tmp_path), lambda: range(6))
    assert found.kinds == (CoreKind((0, 1, 2, 3, 4, 5), 1024, 1728),)
    assert len(found.physical_cores) == 6


def test_older_name_of_the_siblings(tmp_path):
    found = Affinity.read(trees.laptop_amd(tmp_path), lambda: range(4))
    assert found.physical_cores == ((0, 2), (1, 3))


def test_nodes(tmp_path):
    for node, cores in {0: "0-1,4-5", 1: "2-3,6-7", 2: ""}.items():
        plant(tmp_path, {f"sys/devices/system/node/node{node}/cpulist": cores})
    found = Affinity.read(tmp_path, lambda: range(4))
    assert found.nodes == (NumaNode(0, (0, 1)), NumaNode(1, (2, 3)))


GROUPS = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "max 100000"}, None),
        # The tightest of the groups it is in.
        (
            {
                "proc/self/cgroup": "0::/a/b",
                f"{GROUPS}/cpu.max": "max 100000",
                f"{GROUPS}/a/cpu.max": "200000 100000",
                f"{GROUPS}/a/b/cpu.max": "400000 100000",
            },
            2.0,
        ),
        # Seen from inside a container, its group lies outside.
        (
            {
                "proc/self/cgroup": "0::/../x",
                f"{GROUPS}/cpu.max": "100000 100000",
                "sys/fs/x/cpu.max": "50000 100000",
            },
            1.0,
        ),
        # A group of other controllers has the same name as someone else's of this one.
        (
            {
                "proc/self/cgroup": "2:cpuset:/tight\n1:cpu:/",
                f"{GROUPS}/cpu/tight/cpu.cfs_quota_us": 10_000,
                f"{GROUPS}/cpu/tight/cpu.cfs_period_us": 100_000,
            },
            None,
        ),
        # Version 1: its controllers in one folder, or linked by the controller's name.
        (
            {
                "proc/self/cgroup": "4:memory:/m\n3:cpu,cpuacct:/job\n0::/",
                f"{GROUPS}/cpu,cpuacct/job/cpu.cfs_quota_us": 50_000,
                f"{GROUPS}/cpu,cpuacct/job/cpu.cfs_period_us": 100_000,
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu,cpuacct:/job",
                f"{GROUPS}/cpu/job/cpu.cfs_quota_us": 250_000,
                f"{GROUPS}/cpu/job/cpu.cfs_period_us": 100_000,
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                f"{GROUPS}/cpu/cpu.cfs_quota_us": -1,
                f"{GROUPS}/cpu/cpu.cfs_period_us": 100_000,
            },
            None,
        ),
        ({"proc/self/cgroup": "0::/", f"{GROUPS}/cpu.max": "1 0"}, None),
        ({"proc/self/cgroup": "junk\n\n:::\n", f"{GROUPS}/cpu.max": "junk"}, None),
        ({}, None),
    ],
)
def test_quota(tmp_path, files, quota):
    plant(tmp_path, files)
    assert Affinity.read(tmp_path, lambda: {0}).quota_cores == quota


def test_nothing_is_known(tmp_path):
    def refuse():
        raise OSError

    found = Affinity.read(tmp_path, refuse)
    assert found == Affinity(None, (), (), (), (), None)
    assert json.loads(json.dumps(found.as_json())) == found.as_json()


def test_of_this_process():
    found = Affinity.read()
    if not hasattr(os, "sched_getaffinity"):
        assert found.allowed is None
        return
    assert set(found.allowed) == os.sched_getaffinity(0)
    assert sorted(core for group in found.physical_cores for core in group) == list(found.allowed)
    assert sorted(core for kind in found.kinds for core in kind.cores) == list(found.allowed)
    json.dumps(found.as_json(), allow_nan=False)
