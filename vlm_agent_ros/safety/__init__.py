"""Which motions may reach the robot, and when it is stopped: pure rules over proposals and the measured state."""

from .autonomy import MODES, Ladder
from .evidence import EvidenceFile
from .gate import Gate
from .rules import SafetyRules, Violation
from .stop import StopLatch

__all__ = ['MODES', 'EvidenceFile', 'Gate', 'Ladder', 'SafetyRules', 'StopLatch', 'Violation']
