"""What a cell has said last: joint states in their order, images on which a motion may rest, the instruction."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from .verdict import Violation

_REMEMBERED_IMAGES = 512
_SAME_MOMENT_NS = 50_000_000  # by so much an instruction may reach the gate later than the agent
_LATE_STATES = 3  # joint states in a row that are older than the newest are late; more, and time has jumped


@dataclass(frozen=True)
class Measured:
    """The newest joint state."""

    joint_names: tuple[str, ...]
    joint_positions: np.ndarray
    stamp_ns: int


class Inputs:
    """Of one gate.

    Attributes:
        measured: None before the first joint state.
        task_since_s: When the newest instruction came (monotonic); None before the first one.
        task_ns: The same by the cell's stamps; 0 where it cannot be compared with others.
        task_violation: What it breaks, if anything.
        proposal_at_s: When the newest proposal came (monotonic).
    """

    def __init__(self) -> None:
        self.measured: Measured | None = None
        self.task_since_s: float | None = None
        self.task_violation: Violation | None = None
        self.proposal_at_s: float | None = None
        self._images: deque[int] = deque(maxlen=_REMEMBERED_IMAGES)
        self.task_ns = self._late_states = 0

    def joint_state(self, measured: Measured) -> bool:
        """Whether it is the newest; one that was overtaken on its way tells neither where the arm is nor how fast.

        Where time has been set back, nothing that was known by the stamps before can be compared any more.
        """
        late = self.measured is not None and measured.stamp_ns < self.measured.stamp_ns
        if late and self._late_states < _LATE_STATES:
            self._late_states += 1
            return False
        if late:
            self._images.clear()
            self.task_ns = 0
        self.measured, self._late_states = measured, 0
        return True

    def image(self, stamp_ns: int) -> None:
        """The camera has published an image."""
        self._images.append(stamp_ns)

    def task(self, violation: Violation | None, now_s: float, now_ns: int) -> None:
        """An instruction has come, at a monotonic time and at one of the cell's stamps."""
        self.task_since_s, self.task_ns, self.task_violation = now_s, now_ns, violation

    def moved(self) -> None:
        """A motion begins: what the camera has seen until now is no longer what lies there."""
        self._images.clear()

    def check_image(self, stamp_ns: int, age_s: float, limit_s: float) -> Violation | None:
        """Whether a motion may rest on the image of this stamp, but for its age."""
        if stamp_ns not in self._images:
            return Violation('age', age_s, limit_s, 'the camera has published no image of the stamp that the proposal '
                             'rests on, or none since a motion was forwarded')
        if stamp_ns < self.task_ns - _SAME_MOMENT_NS:
            return Violation('superseded', 'another instruction', 'the same', 'the image that the proposal rests on is '
                             'older than the instruction')
        return None
