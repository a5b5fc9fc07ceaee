"""A writer of audit logs that ends with its test."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from vlm_agent_ros.audit.settings import Audit
from vlm_agent_ros.audit.writer import AuditWriter


@pytest.fixture
def writer(tmp_path: Path) -> Any:
    """A function that starts a writer in ``tmp_path / 'log'``; all of them are closed in the end."""
    started: list[AuditWriter] = []

    def start(queue_bytes: int = 64_000_000, **settings: Any) -> AuditWriter:
        limits = dataclasses.replace(Audit(folder=str(tmp_path / 'log'), fsync_s=0.05), **settings)
        started.append(AuditWriter(limits, 'name: bench', queue_bytes))
        return started[-1]

    yield start
    for each in started:
        each.close()
