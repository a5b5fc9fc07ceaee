"""Modes change with a reason only, auto has to be earned by the checkpoint that decides, and is lost as declared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vlm_agent_ros.autonomy import Autonomy
from vlm_agent_ros.cell import load_cell, motion_digest
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.safety import EvidenceFile, Ladder

LIMITS = Autonomy(approved_episodes=2, blend_episodes=4, blend_start=0.1)


@pytest.fixture
def ladder() -> Ladder:
    ladder = Ladder(LIMITS, EvidenceFile(), 'approve')
    ladder.decided_by('a' * 64)
    ladder.episode_ended(True)  # the one in which the checkpoint was changed
    return ladder


def play(ladder: Ladder, success: bool = True) -> str:
    ladder.moved()
    return ladder.episode_ended(success)


def in_auto(limits: Autonomy = LIMITS) -> Ladder:
    ladder = Ladder(limits, EvidenceFile(), 'approve')
    ladder.decided_by('a' * 64)
    ladder.episode_ended(False)
    for _ in range(limits.approved_episodes):
        play(ladder)
    assert ladder.set_mode('auto', 'earned')[0]
    return ladder


def test_shadow_is_the_default() -> None:
    assert Ladder(LIMITS, EvidenceFile()).mode == 'shadow'


@pytest.mark.parametrize(('mode', 'reason', 'told'), [
    ('yolo', 'why not', 'choose one of shadow, approve, auto'), ('approve', '  ', 'reason'), ('auto', 'now', 'missing'),
])
def test_a_refused_change_says_why_and_changes_nothing(ladder: Ladder, mode: str, reason: str, told: str) -> None:
    before = ladder.values()
    changed, message = ladder.set_mode(mode, reason)
    assert not changed
    assert told in message
    assert ladder.values() == before


def test_auto_is_refused_with_the_count_that_is_missing_until_it_is_earned(ladder: Ladder) -> None:
    assert '0 are there, 2 are missing' in ladder.set_mode('auto', 'now')[1]
    play(ladder)
    assert '1 are there, 1 are missing' in ladder.set_mode('auto', 'now')[1]
    play(ladder)
    assert ladder.set_mode('auto', 'now')[0]
    assert ladder.mode == 'auto'
    assert ladder.reason == 'now'


def test_an_episode_counts_only_if_everything_in_it_was_right(ladder: Ladder) -> None:
    assert 'nothing was forwarded' in ladder.episode_ended(True)
    assert 'no success' in play(ladder, success=False)
    for flaw in (lambda: ladder.gate_hit('velocity'), ladder.rejected, lambda: ladder.stopped('operator')):
        flaw()
        assert 'does not count' in play(ladder)
    ladder.moved()
    ladder.set_mode('shadow', 'a look')
    ladder.set_mode('approve', 'back')
    assert 'the mode was changed' in ladder.episode_ended(True)
    assert ladder.values()['approved_episodes'] == '0'
    assert 'counts: 1 approved' in play(ladder)


def test_episodes_of_an_unknown_checkpoint_do_not_count() -> None:
    ladder = Ladder(LIMITS, EvidenceFile(), 'approve')
    assert 'nobody has told which checkpoint decides' in play(ladder)
    assert '0 are there, 2 are missing' in ladder.set_mode('auto', 'now')[1]


def test_episodes_of_shadow_do_not_count(ladder: Ladder) -> None:
    ladder.set_mode('shadow', 'a look')
    play(ladder)
    assert ladder.values()['approved_episodes'] == '0'


def test_speed_grows_with_successful_episodes_in_auto() -> None:
    ladder = in_auto()
    speeds = [ladder.speed]
    for _ in range(5):
        play(ladder)
        speeds.append(ladder.speed)
    assert speeds == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0, 1.0])
    ladder.set_mode('approve', 'a look')
    assert ladder.speed == 1.0  # only auto is slow: an operator looks at every motion of approve


def test_what_happens_in_auto_leads_to_what_is_declared() -> None:
    limits = replace(LIMITS, on_gate_hit='blend', on_stop='approve', on_failure='keep')
    ladder = in_auto(limits)
    play(ladder)
    play(ladder, success=False)
    assert ladder.speed == pytest.approx(0.325)
    assert ladder.gate_hit('workspace')
    assert (ladder.mode, ladder.speed) == ('auto', pytest.approx(0.1))
    assert ladder.stopped('tracking')
    assert ladder.mode == 'approve'
    assert ladder.reason == 'stop: tracking'
    assert '0 are there' in ladder.set_mode('auto', 'again')[1]


def test_neither_stops_nor_gate_hits_take_evidence_in_approve(ladder: Ladder) -> None:
    play(ladder)
    assert not ladder.stopped('operator')
    assert not ladder.gate_hit('age')
    assert ladder.values()['approved_episodes'] == '1'


def test_another_checkpoint_has_to_show_it_itself() -> None:
    ladder = in_auto()
    assert not ladder.decided_by('a' * 64)
    assert ladder.decided_by('b' * 64)
    assert ladder.mode == 'approve'
    assert 'bbbbbbbbbbbb' in ladder.set_mode('auto', 'now')[1]
    assert ladder.decided_by('a' * 64)  # back to one that has shown it
    assert ladder.mode == 'approve'
    assert ladder.set_mode('auto', 'rolled back')[0]


def test_a_cell_that_asks_for_no_evidence_may_start_in_auto_and_another_checkpoint_stays_there() -> None:
    ladder = Ladder(replace(LIMITS, approved_episodes=0, blend_episodes=0), EvidenceFile(), 'auto')
    ladder.decided_by('a' * 64)
    assert (ladder.mode, ladder.speed) == ('auto', 1.0)


def test_a_start_in_auto_without_evidence_is_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match='2 are missing: start in approve'):
        Ladder(LIMITS, EvidenceFile(), 'auto')


def test_evidence_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / 'state' / 'cell.json'
    first = Ladder(LIMITS, EvidenceFile(path), 'approve')
    first.decided_by('a' * 64)
    first.episode_ended(False)
    play(first)
    play(first)
    second = Ladder(LIMITS, EvidenceFile(path), 'auto')
    play(second)
    third = Ladder(LIMITS, EvidenceFile(path), 'auto')
    assert third.speed == pytest.approx(0.325)
    assert [p.name for p in path.parent.iterdir()] == ['cell.json']


@pytest.mark.parametrize('content', ['{', '[]', '{"checkpoints": {"a": {"approved": -1}}}', '{"nonsense": 1}'])
def test_evidence_that_is_none_is_refused_by_the_name_of_its_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / 'cell.json'
    path.write_text(content)
    with pytest.raises(UserError, match=r'cell\.json'):
        EvidenceFile(path)


def test_evidence_that_cannot_be_kept_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    ladder = Ladder(LIMITS, EvidenceFile(tmp_path / 'file' / 'cell.json'), 'approve')
    ladder.decided_by('a' * 64)
    assert 'cannot be written' in ladder.values()['failure']


def test_what_was_taken_back_does_not_count_after_a_restart_though_the_disk_was_full(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')
    limits = Autonomy(approved_episodes=1, blend_episodes=0)
    path = tmp_path / 'evidence.json'
    evidence = EvidenceFile(path)
    evidence.select('a')
    evidence.current.approved = 1
    evidence.save()
    ladder = Ladder(limits, EvidenceFile(path), 'auto')
    monkeypatch.setattr('vlm_agent_ros.safety.evidence.write_durably', full)
    assert ladder.stopped('operator')
    assert 'No space left' in ladder.values()['failure']
    with pytest.raises(UserError, match='0 are there, 1 are missing'):
        Ladder(limits, EvidenceFile(path), 'auto')


def test_evidence_is_of_the_cell_as_its_file_was(tmp_path: Path) -> None:
    path, limits = tmp_path / 'evidence.json', Autonomy(approved_episodes=1, blend_episodes=0)
    evidence = EvidenceFile(path, 'as it was')
    evidence.select('a')
    evidence.current.approved = 1
    evidence.save()
    with pytest.raises(UserError, match=r'1 are missing \(what there was is of a cell file with another robot'):
        Ladder(limits, EvidenceFile(path, 'another limit'), 'auto')
    assert Ladder(limits, EvidenceFile(path, 'as it was'), 'auto').mode == 'auto'


def test_what_the_digest_of_a_cell_is_about() -> None:
    cell = load_cell('panda_table')
    assert motion_digest(cell) == motion_digest(replace(cell, autonomy=LIMITS, name='x'))
    faster = replace(cell, safety=replace(cell.safety, max_tool_speed=cell.safety.max_tool_speed + 0.1))
    assert motion_digest(cell) != motion_digest(faster) != motion_digest(replace(cell, grid=24))
