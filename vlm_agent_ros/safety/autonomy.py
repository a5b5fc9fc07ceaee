"""The ladder from watching to moving alone: modes, the evidence that each step needs, and what leads back down."""

from __future__ import annotations

from ..autonomy import Autonomy
from ..errors import UserError
from .evidence import EvidenceFile

MODES = ('shadow', 'approve', 'auto')


class Ladder:
    """The mode of a gate, and what its checkpoint has shown.

    Args:
        limits: The cell's section ``autonomy``.
        evidence: Where evidence is kept.
        mode: Mode at start.

    Raises:
        UserError: The mode at start is none, or lacks evidence.
    """

    def __init__(self, limits: Autonomy, evidence: EvidenceFile, mode: str = 'shadow') -> None:
        self.mode, self.reason = 'shadow', 'start'
        self._limits, self._evidence = limits, evidence
        self._told = False
        self._new_episode()
        allowed, message = self.set_mode(mode, 'start')
        if not allowed:
            raise UserError(f'mode is {mode} at start, but {message}: start in approve, or in shadow')

    # --- the mode -----------------------------------------------------------------------------------------------

    @property
    def speed(self) -> float:
        """Share of the planned speed at which motions are carried out."""
        if self.mode != 'auto' or not self._limits.blend_episodes:
            return 1.0
        start = self._limits.blend_start
        return start + (1.0 - start) * min(1.0, self._evidence.current.alone / self._limits.blend_episodes)

    def missing(self) -> str:
        """What auto lacks, in a sentence; empty where it lacks nothing."""
        required, have = self._limits.approved_episodes, self._evidence.current.approved
        if have >= required:
            return ''
        who = f'checkpoint {self._evidence.checkpoint[:12]}' if self._evidence.checkpoint else \
            'a checkpoint, whose digest no decision has told yet,'
        lapsed = f' ({self._evidence.lapsed})' if self._evidence.lapsed else ''
        return (f'auto needs {required} approved episodes of {who} with success and no gate hit: {have} are there, '
                f'{required - have} are missing{lapsed}')

    @property
    def unknown(self) -> bool:
        """Evidence matters, but since the start nobody has told which checkpoint decides: perhaps another by now."""
        return self._limits.approved_episodes > 0 and not self._told

    def set_mode(self, mode: str, reason: str) -> tuple[bool, str]:
        """Change the mode.

        Returns:
            Whether it is that mode now, and a sentence for the operator.
        """
        if mode not in MODES:
            return False, f'there is no mode {mode!r}: choose one of {", ".join(MODES)}'
        if not reason.strip():
            return False, 'a change of mode needs a reason: say why'
        missing = self.missing() if mode == 'auto' else ''
        if missing:
            return False, missing
        before, self.mode, self.reason = self.mode, mode, reason.strip()
        if before != mode and self._motions:
            self._flaws.append('the mode was changed')
        return True, f'the mode is {mode}, before it was {before}'

    def values(self) -> dict[str, str]:
        """Mode and evidence, to be shown."""
        evidence = self._evidence.current
        return {'mode': self.mode, 'reason': self.reason, 'checkpoint_sha256': self._evidence.checkpoint,
                'approved_episodes': str(evidence.approved), 'required_episodes': str(self._limits.approved_episodes),
                'auto_episodes': str(evidence.alone), 'speed': f'{self.speed:.3f}',
                **({'failure': self._evidence.failure} if self._evidence.failure else {})}

    # --- what happens -------------------------------------------------------------------------------------------

    def decided_by(self, checkpoint: str) -> bool:
        """A checkpoint has decided; whether it is another one than before, so that other evidence counts."""
        self._told = True
        if checkpoint == self._evidence.checkpoint:
            return False
        self._evidence.select(checkpoint)
        self._flaws.append('the checkpoint changed')
        if self.mode == 'auto' and self.missing():
            self.mode, self.reason = 'approve', f'another checkpoint decides: {self.missing()}'
        return True

    def moved(self) -> None:
        """A proposal was forwarded."""
        self._motions += 1

    def rejected(self) -> None:
        """The operator said no, or nothing."""
        self._flaws.append('the operator did not approve')

    def gate_hit(self, rule: str) -> bool:
        """A proposal broke a rule and was refused or clamped; whether mode or speed have changed by that."""
        self._flaws.append(f'gate hit: {rule}')
        return self._consequence(self._limits.on_gate_hit, f'gate hit: {rule}')

    def stopped(self, cause: str) -> bool:
        """The robot was stopped; whether mode or speed have changed by that."""
        self._flaws.append(f'stop: {cause}')
        return self._consequence(self._limits.on_stop, f'stop: {cause}')

    def episode_ended(self, success: bool, flaw: str = '') -> str:
        """Somebody who knows has judged an episode.

        Args:
            success: Of the episode.
            flaw: Why that is not about what was forwarded; empty where it is.

        Returns:
            A sentence that says whether it counts, and for what.
        """
        motions, evidence = self._motions, self._evidence.current
        flaws = [*self._flaws, *([flaw] if flaw else [])]
        if self.mode == 'approve' and not self._evidence.checkpoint:
            flaws = [*flaws, 'nobody has told which checkpoint decides']
        self._new_episode()
        if self.mode == 'auto' and not success:
            self._consequence(self._limits.on_failure, 'failed episode')
            return 'the episode failed'
        if self.mode == 'shadow' or not success or not motions or flaws:
            why = 'shadow' if self.mode == 'shadow' else 'no success' if not success else \
                flaws[0] if flaws else 'nothing was forwarded'
            return f'the episode does not count ({why})'
        if self.mode == 'approve':
            evidence.approved += 1
        else:
            evidence.alone += 1
        self._evidence.save()
        return f'the episode counts: {evidence.approved} approved, {evidence.alone} in auto'

    def _new_episode(self) -> None:
        self._motions = 0
        self._flaws: list[str] = []

    def _consequence(self, what: str, why: str) -> bool:
        if self.mode != 'auto' or what == 'keep':
            return False
        evidence = self._evidence.current
        evidence.alone = 0
        if what == 'approve':
            evidence.approved = 0
            self.mode, self.reason = 'approve', why
        self._evidence.save(less=True)
        return True
