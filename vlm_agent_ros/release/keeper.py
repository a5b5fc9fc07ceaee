"""Which checkpoint decides, which one waits for the end of the episode, and whether the present one may go on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

from ..autonomy import Autonomy
from ..errors import UserError
from ..safety.verdict import is_gate_hit
from ..status import ERROR, OK, WARN, Status
from .band import Band, Breach, Rollback
from .ledger import Ledger, Release

_DIGITS = 20  # of a stamp in ns
_REMEMBERED = 256


class Decides(Protocol):
    """What the keeper needs to know of the thing that decides."""

    release: Release


D = TypeVar('D', bound=Decides)


class Keeper(Generic[D]):
    """Counts what happens, judges it by the band, and says when another checkpoint takes over.

    Args:
        deciding: The checkpoint that decides at start.
        limits: The cell's section ``rollback``.
        ledger: What is remembered on disk.
        news: How it came that this one decides, if there is something to tell.
        autonomy: Of the cell: for how long after a motion an outcome may be its.

    Attributes:
        deciding: The checkpoint that decides.
        breach: How it has left the band; None while it is within.
        failure: What went wrong in going back or in remembering it; empty otherwise.
    """

    def __init__(self, deciding: D, limits: Rollback, ledger: Ledger, news: str = '',
                 autonomy: Autonomy | None = None) -> None:
        self._autonomy = autonomy or Autonomy()
        self.deciding, self._limits, self._ledger = deciding, limits, ledger
        self._staged: D | None = None
        self._news = news
        self._restart()

    def _restart(self) -> None:
        """Nothing is known of the checkpoint that decides."""
        self._band = Band(self._limits)
        self.breach: Breach | None = None
        self.failure, self._stuck = '', False
        self._open = False
        self._moved_ns = self._begun_ns = self._since_ns = 0
        self._proposed: dict[int, bool] = {}

    # --- what happens -------------------------------------------------------------------------------------------

    def deciding_begins(self) -> None:
        """A decision is under way: from now on there is an episode that can end."""
        self._open = True

    def decided(self, image_stamp_ns: int, latency_ms: float, refusal: str, proposed: bool) -> None:
        """A decision was made.

        Args:
            image_stamp_ns: Of the image that it rests on, by which the gate's verdict is known.
            latency_ms: How long it took.
            refusal: Why no motion follows from it; empty where one does, or where none was wanted.
            proposed: Whether a motion was proposed to the gate.
        """
        self._band.decision(latency_ms)
        if refusal:
            self._band.motion(clean=False)
        elif proposed:
            self._proposed[image_stamp_ns] = True
            while len(self._proposed) > _REMEMBERED:
                self._proposed.pop(next(iter(self._proposed)))
        self._judge()

    def verdict(self, values: dict[str, str]) -> None:
        """The gate has judged a proposal, perhaps one of this checkpoint.

        Args:
            values: Of its diagnostic status.
        """
        stamp_ns, verdict = _stamp(values, 'image_stamp_ns'), values.get('verdict', '')
        if verdict not in ('forwarded', 'shadow', 'refused') or not self._proposed.pop(stamp_ns, False):
            return  # somebody else's, repeated, or not the last word
        if verdict == 'forwarded':
            self._moved_ns = max(stamp_ns, _stamp(values, 'command_stamp_ns'))
        if verdict != 'refused' or is_gate_hit(values.get('rule', '')):
            self._band.motion(clean=verdict != 'refused' and not values.get('clamped'))
        self._judge()

    def new_task(self, now_ns: int) -> None:
        """Whatever was under way has ended with a new instruction, though perhaps not all is known of it yet."""
        self._open, self._begun_ns = False, now_ns

    def episode_ended(self, success: bool, image_stamp_ns: int) -> None:
        """Somebody who knows has judged an episode; it counts if the checkpoint has moved the robot in it.

        Args:
            success: Of the episode.
            image_stamp_ns: Of the image that it was judged by: the word may come after the next instruction.
        """
        if image_stamp_ns and image_stamp_ns <= self._since_ns:
            return  # of an episode that another checkpoint has played
        if self._moved_ns and self._autonomy.may_be_of(self._moved_ns, image_stamp_ns) \
                and not self._moved_ns < self._begun_ns < image_stamp_ns:
            self._band.episode(success)
        self._moved_ns = 0
        if image_stamp_ns > self._begun_ns:
            self._open = False
        self._judge()

    def _judge(self) -> None:
        if self.breach is not None:
            return
        self.breach = self._band.breach()
        if self.breach is not None:
            self._news = ''
            if self._staged is not None and self._staged.release.digest == self.deciding.release.digest:
                self._staged = None  # another copy of what was just found bad
            self._remember(partial(self._ledger.condemn, self.deciding.release, self.breach.reason))
        elif self._band.full:
            self._remember(partial(self._ledger.prove, self.deciding.release))

    def _remember(self, write: Callable[[], None]) -> None:
        """A full disk is no reason to let a bad checkpoint go on, nor to stop a good one."""
        try:
            write()
        except UserError as error:
            self.failure = str(error)

    # --- what follows -------------------------------------------------------------------------------------------

    @property
    def may_decide(self) -> bool:
        """Not once the band was left: an episode under way is finished only where the gate lets its motions pass."""
        return self.breach is None or (self._open and self.breach.limit != 'max_gate_hits')

    @property
    def way_back(self) -> Release | None:
        """The checkpoint to load, now that the band was left; None where it is loaded already or there is none."""
        waits = self.breach is not None and self._staged is None and not self._stuck
        return self._ledger.good if waits else None

    def stage(self, decider: D) -> None:
        """A checkpoint is loaded and takes over as soon as it may."""
        self._staged = decider

    def stays(self, failure: str) -> None:
        """No checkpoint could be loaded to go back to."""
        self.failure, self._stuck = failure, True

    def take(self) -> D | None:
        """The checkpoint that takes over now; None where it is not yet time. To be asked while the arm rests."""
        if self._staged is None or (self._open and self.may_decide):
            return None
        before, self.deciding, self._staged = self.deciding, self._staged, None
        why = self.breach
        if why is None and self._limits.judges and self._ledger.good is None:
            self._remember(partial(self._ledger.prove, before.release))  # the only one that there is to go back to
        since_ns = self._begun_ns
        self._restart()
        self._since_ns = since_ns
        self._news = '' if why is None else f'rolled back from {before.release.model}: {why.reason}'
        return self.deciding

    def status(self) -> Status:
        """Which checkpoint decides and how it does, for ``/diagnostics``."""
        release, waiting = self.deciding.release, self._staged
        if self.breach is not None and waiting is None and (self._stuck or self._ledger.good is None):
            state, level = 'stopped', ERROR
            message = f'{self.breach.reason}; {self.failure or "there is no checkpoint to go back to"}: swap in another'
        elif self.breach is not None:
            state, level, message = 'rolling back', ERROR, self.breach.reason
        elif waiting is not None:
            state, level = 'waiting', OK
            message = f'{waiting.release.model} takes over at the end of the episode'
        else:
            state, level, message = 'deciding', WARN if self._news else OK, self._news or f'{release.model} decides'
        return Status('checkpoint', WARN if self.failure and level == OK else level, message, {
            'state': state, 'checkpoint': release.model, 'checkpoint_sha256': release.digest,
            'signed_by': release.signed_by or 'nobody', **self._band.figures(),
            **({'next': waiting.release.model} if waiting is not None else {}),
            **({'rolled_back': self._news} if self._news else {}),
            **({'failure': self.failure} if self.failure else {})})


def _stamp(values: dict[str, str], name: str) -> int:
    """A stamp (ns) of a status, to which anybody may write; a number of thousands of digits is an error to Python."""
    stamp = values.get(name, '')
    return int(stamp) if stamp.isdecimal() and len(stamp) <= _DIGITS else 0
