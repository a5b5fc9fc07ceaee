"""``vlm-agent incident``: one page of what an audit log says around a time."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlm_agent_ros.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('log', type=Path, metavar='LOG', help='file (*.mcap) or folder of an audit log')
    parser.add_argument('--at', required=True, metavar='T', help='seconds from the beginning of the log, an ISO time '
                        'such as 2026-03-01T14:05:00, or nanoseconds')
    parser.add_argument('--window', type=float, default=10.0, metavar='SECONDS', help='how much before and after it '
                        '(default: 10)')
    parser.add_argument('--out', type=Path, default=Path('incident.html'), metavar='FILE', help='the page '
                        '(default: incident.html)')


def run(args: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        UserError: There is no log, the time is not in it, or the file cannot be written.
    """
    if not 0.0 < args.window <= 600.0:
        raise UserError(f'--window is {args.window:g}, but must be more than 0 and at most 600 seconds')
    from ..metrics import require_writable, write_atomically

    require_writable(args.out)
    from vlm_agent_ros.audit.log import AuditLog

    from .incident import collect, time_of
    from .incident_page import render_incident

    log = AuditLog(args.log)
    incident = collect(log, time_of(args.at, log), args.window)
    write_atomically(args.out, render_incident(incident, args.log, log.cell().grid))
    print(f'see {args.out}')
