"""The section ``audit`` of the cell file."""

from __future__ import annotations

from dataclasses import dataclass

from ..config import bounded
from ..errors import UserError
from ..topic_names import ALL


@dataclass(frozen=True)
class Audit:
    """What is logged, and how much of it is kept."""

    folder: str = bounded('~/.ros/vlm_agent_audit', help='folder of the log; a cell in a namespace has one of that '
                         'name below it')
    max_file_mb: float = bounded(256.0, low=0.1, high=65536.0, help='a new file begins at this size, MB')
    max_file_minutes: float = bounded(60.0, low=0.01, high=1440.0, help='a new file begins after this time, min')
    disk_budget_mb: float = bounded(20000.0, low=0.1, help='the oldest files are deleted above this size of all, MB')
    fsync_s: float = bounded(0.25, low=0.02, high=0.5, help='what was received is on the disk after this time, s')
    leave_out: tuple[str, ...] = bounded((), help='topics of the interface that are not logged, such as joint_states')

    def check(self, source: str) -> None:
        """Refuse what cannot be meant.

        Raises:
            UserError: Naming the key of the file ``source``.
        """
        if self.disk_budget_mb < self.max_file_mb:
            raise UserError(f'{source}: audit.disk_budget_mb is {self.disk_budget_mb:g}, but one file may have '
                            f'{self.max_file_mb:g} MB: raise it, or lower audit.max_file_mb')
        unknown = [name for name in self.leave_out if name not in ALL]
        if unknown:
            raise UserError(f'{source}: audit.leave_out names {unknown[0]!r}, but the topics are {", ".join(ALL)}')
