"""The thought that goes with a correction, where the operator has only said what should have been done."""

from __future__ import annotations

import re

_CELL = re.compile(r'\d+ \d+')


def corrected_thought(thought: str, action: str, correction: str) -> str:
    """The thought of a refused decision, such that the correction follows from it.

    The refused action, where the thought comes to it in so many words, becomes the corrected one. The cell that it went
    to was where the thought saw its object: it becomes the corrected cell wherever the thought names it, unless it
    names the corrected cell too. Then it saw both, and only chose wrongly.

    Args:
        thought: What was written.
        action: What was written as the action.
        correction: What should have been.

    Returns:
        The thought, unchanged where it does not speak of the action.
    """
    if not action:
        return thought
    before, after = _CELL.search(action), _CELL.search(correction)
    head, found, tail = thought.rpartition(action)
    if not found:
        head, tail, correction = thought, '', ''
    if before and after and not re.search(rf'\b{after[0]}\b', head):
        head = re.sub(rf'\b{before[0]}\b', after[0], head)
    return head + correction + tail
