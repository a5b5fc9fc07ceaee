"""``vlm-agent record --from-cell``: corrections and approvals of an audit log in the format of demonstrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vlm_agent_ros import __version__
from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.audit.log import LoggedDecision
from vlm_agent_ros.cell import Cell
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import load_model_config
from vlm_agent_ros.policy.prompt import PromptTemplate

from ..demonstrations.dataset_schema import DatasetInfo, DemonstrationRow, EpisodeOutcome
from ..demonstrations.dataset_writer import DatasetWriter
from .decisions import CellData, LoggedEpisode, cell_of, corrected_texts, is_approved, is_rejected, read_logs, said


def record_from_cell(logs: Sequence[Path], out: Path, cell_name: str, model: str) -> str:
    """Write a dataset of what operators said would have been right, and of what they approved and led to success.

    Args:
        logs: Audit logs.
        out: Folder of the dataset.
        cell_name: Cell file of the cell that was logged; empty for the one in the log.
        model: Models file whose prompt the decisions were made with.

    Returns:
        What was written, in words.

    Raises:
        UserError: A log does not fit or holds nothing of the kind, or the folder cannot be written to or is taken.
    """
    cell, prompt = cell_of(logs, cell_name), load_model_config(model).prompt
    data = read_logs(logs, cell, prompt, SkillLanguage(cell.grid))
    rows = list(demonstration_rows(data, cell, prompt))
    if not rows:
        raise UserError(f'{", ".join(map(str, logs))}: no correction, and no approved decision of a successful '
                        f'episode, among {data.counts["decisions"]} decisions: there is nothing to imitate')
    info = DatasetInfo(recording={
        'made by': 'vlm-agent record --from-cell', 'version': __version__, 'logs': [str(log) for log in logs],
        'cell': cell.name, 'prompt_sha256': prompt.digest(), 'found': data.counts})
    writer = DatasetWriter(out, info, 1)
    writer.missing()
    if writer.finished:
        raise UserError(f'{out} holds this dataset already: choose another --out, or delete it')
    writer.write(0, rows)
    writer.finish()
    corrected = sum('corrected' in (row.rare or ()) for row in rows)
    return f'{out}: {len(rows)} decisions, {corrected} of them corrected'


def demonstration_rows(data: CellData, cell: Cell, prompt: PromptTemplate) -> Iterator[DemonstrationRow]:
    """A row for every decision of which it is known what should have been written.

    Decisions of an episode that the log does not end are episodes of their own: nobody knows where one ended.
    """
    language, number = SkillLanguage(cell.grid), 0
    for episode in data.episodes:
        for (_, place), decision in episode.placed():
            written = right_texts(decision, episode)
            if written is not None:
                told = prompt.render(decision.task, decision.state, language, decision.previous)
                yield DemonstrationRow(
                    decision.image, told, *written, number,
                    executed=decision.action if decision.verdict == 'forwarded' else None, instruction=decision.task,
                    world=cell.name, turn=place + 1 if episode.ended else 1, outcome=decision.outcome,
                    episode_outcome=_end(episode), rare=_events(decision))
            number += not episode.ended
        number += episode.ended


def right_texts(decision: LoggedDecision, episode: LoggedEpisode) -> tuple[str, str] | None:
    """Thought and action that should have been written, as far as anybody has said so."""
    if said(decision) is not None:
        return corrected_texts(decision)
    return (decision.thought, decision.action) if is_approved(decision) and episode.success else None


def _end(episode: LoggedEpisode) -> EpisodeOutcome | None:
    outcomes = [d.outcome for d in episode.decisions if d.outcome is not None]
    return EpisodeOutcome(episode.success, sum(o.reward for o in outcomes), len(outcomes)) if episode.ended else None


def _events(decision: LoggedDecision) -> tuple[str, ...]:
    correction = said(decision)
    found = {'corrected': correction is not None, 'rejected': is_rejected(decision), 'approved': is_approved(decision),
             'demonstrated': correction is not None and correction.demonstrated}
    return tuple(name for name, holds in found.items() if holds)
