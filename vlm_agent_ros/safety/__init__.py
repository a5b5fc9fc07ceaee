"""Which motions may reach the robot: pure rules over a proposal and the measured state, and the latched stop."""

from .rules import SafetyRules
from .stop import StopLatch
from .verdict import Ages, Verdict, Violation

__all__ = ['Ages', 'SafetyRules', 'StopLatch', 'Verdict', 'Violation']
