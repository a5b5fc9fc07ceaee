"""``runs/<name>/``: where a run keeps its files, and which of its checkpoints stay."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.interrupt import deferred_signals

from ..metrics import write_error


class RunFolder:
    """Folder of a run.

    Args:
        path: Created if missing.

    Raises:
        UserError: The folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / 'checkpoints'
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error

    def save(self, update: int, write: Callable[[Path], None], *, best: bool = False) -> Path:
        """Keep the checkpoint of an update, unless it is there already, and point ``latest`` to it.

        Args:
            update: Number of finished updates.
            write: Writes a checkpoint to a path that does not exist, at once or not at all.
            best: Point ``best`` to it as well.
        """
        path = self.checkpoints / f'step_{update:06d}'
        with deferred_signals():
            if not path.exists():
                write(path)
            try:
                _link(self.checkpoints / 'latest', path.name)
                if best:
                    _link(self.checkpoints / 'best', path.name)
            except OSError as error:
                raise write_error(path, error) from error
        return path

    def prune(self, keep: int) -> None:
        """Delete all but the newest ``keep`` checkpoints and those that ``latest`` and ``best`` point to."""
        linked = {link.resolve() for link in (self.checkpoints / 'latest', self.checkpoints / 'best') if link.exists()}
        for path in steps_in(self.checkpoints)[:-keep]:
            if path.resolve() not in linked:
                shutil.rmtree(path, ignore_errors=True)

    def go_back_to(self, update: int, best: int) -> None:
        """Make the checkpoints what they were after ``update``, whatever a killed process left behind.

        Args:
            update: Finished updates of the run that goes on; later checkpoints are deleted, it makes them anew.
            best: The update that ``best`` points to; 0 = none.
        """
        for path in [*self.path.glob('.*.tmp'), *self.checkpoints.glob('.*.tmp')]:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for path in steps_in(self.checkpoints):
            if int(path.name.removeprefix('step_')) > update:
                shutil.rmtree(path, ignore_errors=True)
        for name, step in (('latest', update), ('best', best)):
            target = self.checkpoints / f'step_{step:06d}'
            if target.exists():
                _link(self.checkpoints / name, target.name)
            else:
                (self.checkpoints / name).unlink(missing_ok=True)


@contextmanager
def claimed(path: Path, what: str = 'run', option: str = '--run-name') -> Iterator[None]:
    """Within it, and until this process ends in whatever way, a folder is this process' alone.

    Args:
        path: Of the folder, which is made if it is missing.
        what: It holds.
        option: By which another folder can be chosen.

    Raises:
        UserError: Another process is at it, or the folder cannot be made.
    """
    lock = path / '.lock'
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise write_error(path, error) from error
    with open(lock, encoding='utf-8') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f'another process is at the {what} {path}: choose another {option}, or wait for it'
                            ) from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            with suppress(OSError):  # it holds something
                path.rmdir()


def steps_in(checkpoints: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; a copy that somebody has named after one is none."""
    return sorted(path for path in checkpoints.glob('step_*')
                  if path.is_dir() and path.name.removeprefix('step_').isdigit())


def new_run_path(runs_dir: str, name: str) -> Path:
    """Folder of a new run; a name that is taken is refused, so that no run is lost.

    Raises:
        UserError: There is a run of that name.
    """
    path = Path(runs_dir).expanduser() / name
    if steps_in(path / 'checkpoints') or any((path / name).exists() for name in ('metrics.jsonl', 'summary.json')):
        raise UserError(f'{path} holds a run already: choose another run_name, delete it, or continue it with '
                        f'`--resume {path}`')
    return path


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f'.{link.name}.{os.getpid()}.tmp')
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target, target_is_directory=True)
    os.replace(temporary, link)
