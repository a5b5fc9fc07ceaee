"""What the user sees while a run works: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, TextIO


class Progress:
    """Bar of one phase at a time.

    Args:
        stream: Where to, stdout by default. A terminal gets a bar; elsewhere a phase prints one line when it ends, and
            training one line per update.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self.live = self._stream.isatty()
        self._bar: Any = None
        self._task: Any = None
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(TextColumn('[bold]{task.description}'), BarColumn(bar_width=24), MofNCompleteColumn(),
                            TextColumn('{task.fields[figures]}'), TimeRemainingColumn(),
                            console=Console(file=self._stream))

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        if self._bar:
            self._bar.stop()

    def phase(self, name: str, total: int, completed: int = 0) -> Phase:
        """Start a phase of ``total`` units, of which some may be done already."""
        if self._bar:
            return Phase(self, name, self._bar.add_task(name, total=total, completed=completed, figures=''))
        return Phase(self, name, None)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def update(self, task: Any, **fields: Any) -> None:
        """Change a bar."""
        if self._bar:
            self._bar.update(task, **fields)


class Phase:
    """One bar; made by ``Progress.phase``."""

    def __init__(self, progress: Progress, name: str, task: Any) -> None:
        self._progress, self._name, self._task = progress, name, task
        self._started = time.perf_counter()

    def advance(self, units: int = 1, figures: str | None = None) -> None:
        """So many units more are done; ``figures`` replaces the text beside the bar."""
        self._progress.update(self._task, advance=units, **({} if figures is None else {'figures': figures}))

    def line(self, text: str) -> None:
        """Figures beside the bar; without a bar, a line of their own."""
        if self._progress.live:
            self._progress.update(self._task, figures=text)
        else:
            self._progress.say(f'{self._name}: {text}')

    def end(self, text: str) -> None:
        """The phase is over."""
        seconds = time.perf_counter() - self._started
        self._progress.update(self._task, visible=False)
        self._progress.say(f'{self._name}: {text} in {seconds:.0f} s')


def clock_time(seconds: float) -> str:
    """``h:mm:ss`` or ``m:ss``."""
    minutes, rest = divmod(int(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'
