"""Whether an audit log has survived a kill."""

from __future__ import annotations

from pathlib import Path

from vlm_agent_ros.audit.log import AuditLog
from vlm_agent_ros.audit.mcap_file import read_messages
from vlm_agent_ros.errors import UserError

_MAY_MISS_NS = 1_000_000_000


def check_log_after_kill(folder: Path, killed_at_ns: int) -> str | None:
    """Look whether a log opens and misses at most its last second.

    Args:
        folder: Of the log. Something was received all the time until the kill, such as joint states.
        killed_at_ns: When a process was killed, by the system's clock.

    Returns:
        What is wrong, in one sentence, or None.
    """
    newest = 0
    try:
        for file in reversed(AuditLog(folder).files):  # those of a restarted writer begin after the kill
            times = (record.log_time for _, _, record in read_messages(file))
            newest = max((time_ns for time_ns in times if time_ns <= killed_at_ns), default=0)
            if newest:
                break
    except UserError as error:
        return str(error)
    missing_ns = killed_at_ns - newest
    if missing_ns > _MAY_MISS_NS:
        return f'{folder} misses the last {missing_ns * 1e-9:.2f} s before the kill' if newest else \
            f'{folder} holds nothing from before the kill'
    return None
