"""Which motions may reach the robot: pure rules over a proposal and the measured state, and the latched stop."""

from .rules import SafetyRules, Violation
from .stop import StopLatch

__all__ = ['SafetyRules', 'StopLatch', 'Violation']
