"""The section ``autonomy`` of a cell file: when the robot is stopped, and what it takes to let it move alone."""

from __future__ import annotations

from dataclasses import dataclass

from .config import bounded

CONSEQUENCES = ('approve', 'blend', 'keep')


@dataclass(frozen=True)
class Autonomy:
    """Faults that stop the robot, evidence that ``auto`` needs, and how its speed grows.

    What happens in auto leads to ``approve`` (back to the operator, and the evidence starts anew), to ``blend`` (back
    to the lowest speed) or to nothing (``keep``).
    """

    camera_timeout_s: float = bounded(
        0.5, low=0.05, high=60.0, help='no new image for so long while the robot moves is a fault, s')
    joint_timeout_s: float = bounded(
        0.25, low=0.02, high=60.0, help='no new joint state for so long while the robot moves is a fault, s')
    heartbeat_timeout_s: float = bounded(
        0.5, low=0.1, high=60.0, help='no heartbeat of the agent for so long is a fault, s')
    tracking_tolerance: float = bounded(
        0.2, low=0.001, high=3.2, help='arm joint error against the commanded motion that is a fault, rad')
    tracking_latency_s: float = bounded(
        0.25, low=0.0, high=2.0, help='how far the robot may lag behind the commanded motion without an error, s')
    trigger_count: int = bounded(
        3, low=1, high=100, help='observations in a row that show a fault before it stops the robot')
    release_s: float = bounded(
        0.5, low=0.0, high=60.0, help='time that a fault has to be away before a stop may be reset, s')
    approved_episodes: int = bounded(
        20, low=0, high=100_000,
        help='approved episodes of a checkpoint with success and no gate hit before it may move alone')
    blend_start: float = bounded(0.1, low=0.01, high=1.0, help='share of the planned speed at which auto begins')
    blend_episodes: int = bounded(
        20, low=0, high=100_000, help='successful episodes in auto over which the speed grows to the planned one')
    on_gate_hit: str = bounded('blend', choices=CONSEQUENCES, help='what a refused or clamped proposal leads to')
    on_stop: str = bounded('approve', choices=CONSEQUENCES, help='what a stop leads to')
    on_failure: str = bounded('blend', choices=CONSEQUENCES, help='what a failed episode leads to')
    agreement_distance_m: float = bounded(
        0.03, low=0.001, high=1.0,
        help='in shadow, tool positions of proposal and of what was done that are no farther apart agree, m')
    outcome_within_s: float = bounded(
        600.0, low=1.0, high=86400.0, help='an outcome whose image is of so long after the last motion began, or more, '
        'is of something else, s')

    def may_be_of(self, moved_ns: int, judged_ns: int) -> bool:
        """Whether an outcome may be that of a motion.

        Args:
            moved_ns: Stamp at which the motion began.
            judged_ns: Stamp of the image by which it was judged; 0 is unknown.
        """
        return judged_ns - moved_ns < self.outcome_within_s * 1e9
