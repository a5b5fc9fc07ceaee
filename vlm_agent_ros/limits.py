"""The section ``safety`` of a cell file: limits of the rules, and what is done where one is hit."""

from __future__ import annotations

from dataclasses import dataclass

from .config import bounded
from .errors import UserError

CLAMPABLE = ('velocity', 'acceleration', 'tool_speed', 'position', 'gripper_width', 'effort')
"""Rules for which there is a harmless motion near the one that was proposed: slower, or a little less far."""


MAX_AHEAD_S = 0.1
"""Time (s) by which the clocks of a cell may disagree: the stamp of what is of a time farther ahead says nothing."""


@dataclass(frozen=True)
class KeepOut:
    """A box that neither tool nor links may enter."""

    name: str = bounded(help='what is there, for the message')
    low: tuple[float, float, float] = bounded(help='lower corner in the base frame, m')
    high: tuple[float, float, float] = bounded(help='upper corner, m')

    def __post_init__(self) -> None:
        if any(low >= high for low, high in zip(self.low, self.high)):
            raise UserError(f'workspace.keep_out {self.name!r}: low must be less than high in x, y and z: swap them')


@dataclass(frozen=True)
class Safety:
    """Limits of the gate; the trainer and the worlds apply the same rules."""

    max_image_age_s: float = bounded(1.0, low=0.01, help='oldest image a proposal may rest on, s')
    max_joint_age_s: float = bounded(0.5, low=0.01, help='oldest joint state a proposal is checked against, s')
    max_task_age_s: float = bounded(3600.0, low=1.0, help='oldest task text that may still be worked on, s')
    max_proposal_age_s: float = bounded(60.0, low=0.01, help='longest time from a proposal to its command, s')
    max_rate_hz: float = bounded(20.0, low=0.01, help='most proposals per second')
    max_start_error: float = bounded(0.1, low=0.001, help='first point to measured position of an arm joint, rad')
    max_outside: float = bounded(0.01, low=0.0, high=0.05, help='how far outside of workspace, or into the table, a '
                                 'stop or a servo may have left the arm, m: a motion that leads back passes')
    jump_time_s: float = bounded(0.1, low=0.001, high=1.0, help='time in which a controller evens out a first point at '
                                 'time 0 that is not the measured one, or the end of a motion that does not rest, s')
    velocity_tolerance: float = bounded(0.05, low=0.0, high=1.0, help='share by which a limit may be exceeded')
    # The cubic between two points of a jerk-limited motion accelerates more than the motion itself: by up to 26 % where
    # points are 40 ms apart and jerk takes 20 ms to build the acceleration up (measured on every image cell).
    acceleration_tolerance: float = bounded(0.4, low=0.0, high=1.0,
                                            help='share by which a limit may be exceeded between points')
    max_tool_speed: float = bounded(1.5, low=0.01, high=10.0, help='speed of the tool, m/s')
    max_gripper_force: float | None = bounded(None, low=0.0, help='effort that may be asked of a gripper joint, within '
                                              "the URDF's limit, N or Nm")
    max_duration_s: float = bounded(30.0, low=0.1, help='longest proposal, s')
    max_points: int = bounded(2000, low=2, help='most points of a proposal')
    collision: bool = bounded(True, help='judge links against each other, the table and workspace.keep_out; needs '
                              'collision geometry in the URDF')
    position_band: float = bounded(0.01, low=0.0, high=0.1,
                                   help='how far beyond its limit a position can still be clamped, rad')
    policy: dict[str, str] = bounded({}, help=f'rule: reject or clamp; reject where nothing is said; clamp is possible '
                                     f'for {", ".join(CLAMPABLE)}')

    def __post_init__(self) -> None:
        for rule, handling in self.policy.items():
            if handling not in ('reject', 'clamp'):
                raise UserError(f'safety.policy.{rule} is {handling!r}, but must be one of reject, clamp')
            if rule not in CLAMPABLE:
                raise UserError(f'safety.policy: {rule!r} always rejects: remove it; a choice there is for '
                                f'{", ".join(CLAMPABLE)}')
