"""What a node shows of itself on ``/diagnostics``, free of ROS."""

from __future__ import annotations

from dataclasses import dataclass, field

OK, WARN, ERROR = 0, 1, 2
"""Levels, as in diagnostic_msgs/DiagnosticStatus."""


@dataclass(frozen=True)
class Status:
    """One status.

    Attributes:
        about: The constant second half of its name, as ``verdict`` in ``gate_node: verdict``.
        level: OK, WARN or ERROR.
        message: One sentence.
        values: The same in figures.
    """

    about: str
    level: int
    message: str
    values: dict[str, str] = field(default_factory=dict)
