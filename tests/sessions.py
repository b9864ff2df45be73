"""A session that is no backend's, for tests of what uses one."""

from __future__ import annotations

from elir_deploy.runtime.backends.base import Selection, Session, allocate
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Shape


class ArraySession(Session):
    """Arrays for every shape; what a run does with them is left to subclasses."""

    def __init__(self, bundle: Bundle) -> None:
        self.manifest = bundle.manifest
        super().__init__(bundle.manifest.shapes[0])

    def _bind(self, shape: Shape) -> Selection:
        stages = self.manifest.stages_in(shape)
        noise = next((allocate(s.noise) for s in stages if s.noise is not None), None)
        return Selection(allocate(stages[0].input), noise, allocate(stages[-1].output))

    def close(self) -> None:
        pass
