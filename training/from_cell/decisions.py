"""The decisions of audit logs that a policy can learn from, in episodes, and how many there are that it cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlm_agent_ros.actions import ActionError, ActionLanguage
from vlm_agent_ros.audit.log import AuditLog, Correction, LoggedDecision
from vlm_agent_ros.cell import Cell, load_cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.prompt import PromptTemplate

from .demonstrated import demonstrations
from .thoughts import corrected_thought

Place = tuple[int, int]
"""Of a decision: number of the episode, and place in it."""


@dataclass(frozen=True)
class LoggedEpisode:
    """Decisions from the task to an outcome that ended it; ``ended`` is False where the log or the task did.

    Attributes:
        number: Within everything that was read, from 0.
    """

    number: int
    decisions: tuple[LoggedDecision, ...]

    def placed(self) -> Iterator[tuple[Place, LoggedDecision]]:
        """Its decisions with their places."""
        for i, decision in enumerate(self.decisions):
            yield (self.number, i), decision

    @property
    def ended(self) -> bool:
        """Its last outcome says so."""
        last = self.decisions[-1].outcome
        return last is not None and (last.terminated or last.truncated)

    @property
    def success(self) -> bool:
        """It ended, and the task was done."""
        last = self.decisions[-1].outcome
        return self.ended and last is not None and last.success


@dataclass(frozen=True)
class CellData:
    """What logs hold.

    Attributes:
        episodes: Of decisions whose image and prompt are those that the policy would see.
        counts: What was found: ``decisions``, and those that were left out, by the reason.
    """

    episodes: list[LoggedEpisode]
    counts: dict[str, int] = field(default_factory=dict)


def cell_of(paths: Sequence[Path], name: str) -> Cell:
    """The cell of this name or path; without one, the cell that the first log says it is of.

    Raises:
        UserError: There is none, or the log does not say.
    """
    return load_cell(name) if name else AuditLog(paths[0].expanduser()).cell()


def read_logs(paths: Sequence[Path], cell: Cell, prompt: PromptTemplate, language: ActionLanguage) -> CellData:
    """The decisions of audit logs.

    Args:
        paths: Files or folders; what is named twice is read once.
        cell: Size of the images, and geometry of demonstrations.
        prompt: Template of the policy that is to learn.
        language: Its actions.

    Raises:
        UserError: A log is missing or no log, or holds nothing that can be learned from; the message says why.
    """
    counts: Counter[str] = Counter()
    episodes: list[LoggedEpisode] = []
    read: set[Path] = set()
    for path in paths:
        log = AuditLog(path.expanduser())
        log.files = [file for file in log.files if file.resolve() not in read]  # a folder, and a file of it
        if not log.files:
            continue
        read.update(file.resolve() for file in log.files)
        shown = demonstrations(log, cell)
        usable = _usable(log.decisions(), shown, cell, prompt, language, counts)
        for part in _split(usable):
            episodes.append(LoggedEpisode(len(episodes), part))
    names = ', '.join(map(str, paths))
    if not counts['decisions']:
        raise UserError(f'{names}: no decision in it: log a cell whose agent is active, with audit_node')
    if not episodes:
        reasons = ', '.join(f'{count} {reason}' for reason, count in counts.items() if reason != 'decisions')
        raise UserError(f'{names}: none of {counts["decisions"]} decisions can be learned from ({reasons}): use the '
                        'checkpoint and the cell file that the log was made with')
    return CellData(episodes, dict(counts))


def said(decision: LoggedDecision) -> Correction | None:
    """The last word of the operators, if they have corrected a decision."""
    return decision.corrections[-1] if decision.corrections else None


def corrected_texts(decision: LoggedDecision) -> tuple[str, str] | None:
    """Thought and action of the operators' last correction; the thought is made to fit where they have said none."""
    correction = said(decision)
    if correction is None:
        return None
    thought = correction.thought or corrected_thought(decision.thought, decision.action, correction.action)
    return thought, correction.action


def is_approved(decision: LoggedDecision) -> bool:
    """An operator has released the motion."""
    return decision.verdict == 'forwarded' and decision.mode == 'approve'


def is_rejected(decision: LoggedDecision) -> bool:
    """An operator has said no, or has let the time pass."""
    return decision.verdict == 'refused' and decision.rule == 'approval'


def _usable(decisions: Iterator[LoggedDecision], shown: dict[int, str], cell: Cell, prompt: PromptTemplate,
            language: ActionLanguage, counts: Counter[str]) -> Iterator[LoggedDecision]:
    size, digest = (cell.camera.height, cell.camera.width, 3), prompt.digest()
    for decision in decisions:
        counts['decisions'] += 1
        if decision.prompt_sha256 != digest:
            counts['with another prompt'] += 1
        elif not decision.image.size:
            counts['without their image'] += 1
        elif decision.image.shape != size:
            counts['with an image of another size'] += 1
        else:
            told = [replace(c, action=c.action or shown.get(decision.image_stamp_ns, '')) for c in decision.corrections]
            kept = tuple(correction for correction in told if _speaks(correction.action, language))
            if len(kept) < len(told):
                counts['with a correction outside the action language'] += 1
            if told and told[-1] not in kept:  # what was right is not known, only that it was none of these
                yield replace(decision, corrections=(), mode='')
            else:
                yield replace(decision, corrections=kept)


def _split(decisions: Iterator[LoggedDecision]) -> Iterator[tuple[LoggedDecision, ...]]:
    """Decisions by episode: it ends with an outcome that says so, or when an instruction is given, be it the same."""
    part: list[LoggedDecision] = []
    for decision in decisions:
        if part and (decision.task, decision.task_stamp_ns) != (part[-1].task, part[-1].task_stamp_ns):
            yield tuple(part)
            part = []
        part.append(decision)
        if decision.outcome is not None and (decision.outcome.terminated or decision.outcome.truncated):
            yield tuple(part)
            part = []
    if part:
        yield tuple(part)


def _speaks(action: str, language: ActionLanguage) -> bool:
    try:
        language.parse(action)
    except ActionError:
        return False
    return True
