"""What a run writes while it runs: metrics.jsonl, TensorBoard events, and the memory that it takes."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from vlm_agent_ros.errors import UserError


def write_error(path: Path, error: OSError) -> UserError:
    """The sentence for a file that cannot be written."""
    return UserError(f'{path} cannot be written ({error.strerror or error}): free space or choose another place')


def write_atomically(path: Path, text: str) -> None:
    """Write a file at once or not at all.

    Raises:
        UserError: There is no space, or the folder cannot be written to.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'w', encoding='utf-8') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # its folder may be none, as the error has told
            temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be written in the end, before the work that it is for.

    Raises:
        UserError: It is a directory, or its folder cannot be written to.
    """
    if path.is_dir():
        raise UserError(f'{path} is a directory: give the name of a file')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise write_error(path, error) from error


class MetricsLog:
    """One line of JSON and one TensorBoard step per update.

    Args:
        folder: Folder of the run.
        keep_updates: Lines of later updates are dropped: a resumed run writes them anew.

    Attributes:
        rows: All lines, oldest first.
    """

    def __init__(self, folder: Path, keep_updates: int = 0) -> None:
        # Imported here: TensorBoard takes a second that `--help` should not.
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / 'metrics.jsonl'
        self.rows: list[dict[str, Any]] = [row for row in read_rows(self.path) if row['update'] <= keep_updates]
        write_atomically(self.path, ''.join(json.dumps(row) + '\n' for row in self.rows))
        try:
            # TensorBoard drops what an earlier process wrote at this step and later.
            first = self.rows[-1]['decisions_total'] + 1 if self.rows else 0
            self._writer = SummaryWriter(str(folder), purge_step=first)
        except OSError as error:
            raise write_error(folder, error) from error

    def write(self, row: dict[str, Any]) -> None:
        """Append the figures of an update; ``update`` and ``decisions_total`` must be among them.

        Raises:
            UserError: There is no space left.
        """
        row = {key: float(f'{value:.7g}') if isinstance(value, float) else value for key, value in row.items()}
        self.rows.append(row)
        try:
            with open(self.path, 'a', encoding='utf-8') as file:
                file.write(json.dumps(row) + '\n')
                file.flush()
                os.fsync(file.fileno())
            for key, value in row.items():
                if key not in ('update', 'decisions_total'):
                    self._writer.add_scalar(_tag(key), value, row['decisions_total'])
            self._writer.flush()
        except OSError as error:
            raise write_error(self.path, error) from error

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class PeakMemory:
    """Largest memory of this process and its descendants, worlds included, as of the calls of ``sample``.

    Attributes:
        mib: Mebibytes of proportional set size, in which shared pages count once.
    """

    def __init__(self) -> None:
        self.mib = 0.0

    def sample(self) -> None:
        """Look now."""
        import psutil

        total = 0
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except (psutil.Error, AttributeError):  # gone, or not Linux
                continue
        self.mib = max(self.mib, total / 2**20)


def _tag(key: str) -> str:
    """TensorBoard groups curves by what is before the slash."""
    if '/' in key:
        return key
    rollout = ('success', 'return', 'turns', 'episodes', 'illegal', 'unplannable', 'refused', 'grounded', 'faithful',
               'grounded_statements', 'thought_tokens', 'distinct_thoughts', 'thought_collapse', 'collapse_alarm',
               'kept_share', 'temperature', 'lost', 'staleness', 'workers_lost', 'episodes_mib', 'weights_mib')
    seconds = key.endswith(('_s', '_per_second'))
    return f'{"rollout" if key in rollout else "time" if seconds else "update"}/{key}'


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where there is no file."""
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last line of a run that was killed while it wrote
            continue
    return rows
