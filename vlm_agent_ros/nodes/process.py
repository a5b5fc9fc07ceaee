"""Node processes that never outlive the process that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError

_PR_SET_PDEATHSIG = 1
_STARTER = 'VLM_AGENT_ROS_STARTED_BY'


def end_with_parent(parent_pid: int) -> None:
    """Ask the kernel to end this process when its parent dies, however it dies; 0 for no parent to watch.

    Raises:
        UserError: The process named is not the parent, or has already gone.
    """
    if not parent_pid:
        return
    if hasattr(ctypes.CDLL(None), 'prctl'):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:  # also covers a parent that died before the call above
        raise UserError(f'parent_pid is {parent_pid}, but process {os.getppid()} started this one: leave it out')


def end_with_starter() -> None:
    """As ``end_with_parent``, where the one who started this process has named itself by ``with_starter``.

    Raises:
        UserError: It has already gone.
    """
    end_with_parent(int(os.environ.pop(_STARTER, '0')))  # what this one starts in turn has another parent


def with_sources(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that imports these sources first: the package may be run without being installed."""
    root = str(Path(__file__).resolve().parents[2])
    return {**environment, 'PYTHONPATH': os.pathsep.join(filter(None, (root, environment.get('PYTHONPATH'))))}


def with_starter(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a node that is to end when this process dies, also by SIGKILL."""
    return {**environment, _STARTER: str(os.getpid())}


class NodeProcess:
    """A node that this process starts, watches and ends.

    Args:
        command: Program and arguments.
        environment: Complete environment of the process.
        log: File that gets its output; appended to.
    """

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._command, self._environment, self.log = command, environment, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it in a process group of its own: Ctrl-C in the terminal is for the one who started it.

        Raises:
            UserError: The log file cannot be written.
        """
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open('ab') as stream:
                self._process = subprocess.Popen(
                    self._command, env=with_starter(self._environment), stdin=subprocess.DEVNULL, stdout=stream,
                    stderr=stream, start_new_session=True)
        except OSError as error:
            raise UserError(f'{self.log} cannot be written ({error.strerror}): free space or choose another folder') \
                from error

    def exit_code(self) -> int | None:
        """Its exit status, negative after a signal; None while it runs."""
        return self._process.poll() if self._process else None

    def exit_reason(self) -> str | None:
        """How it ended, with its last words; None while it runs."""
        code = self.exit_code()
        if code is None:
            return None
        how = f'was killed by {signal.Signals(-code).name}' if code < 0 else f'exited with status {code}'
        return how + self.last_words()

    def last_words(self) -> str:
        """The last line of the log in brackets, or nothing."""
        try:
            lines = self.log.read_bytes()[-4096:].decode(errors='replace').strip().splitlines()
        except OSError:
            return ''
        return f' ({lines[-1].strip()[:300]})' if lines else ''

    def signal(self, number: int) -> None:
        """Send a signal if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def end(self, timeout_s: float) -> None:
        """Wait for it to end, then kill it. Signal all of several before ending each: they end side by side."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
