"""Which motions may reach the robot, and when it is stopped: pure rules over proposals and the measured state."""

from .autonomy import MODES, Ladder
from .evidence import EvidenceFile
from .gate import Gate
from .rules import SafetyRules
from .stop import StopLatch
from .verdict import Ages, Verdict, Violation

__all__ = ['MODES', 'Ages', 'EvidenceFile', 'Gate', 'Ladder', 'SafetyRules', 'StopLatch', 'Verdict', 'Violation']
