"""Everything that the gate decides, without ROS: what becomes of proposals, stops, modes, and what is told about it."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..cell import Cell
from ..motion.cubic import slowed
from ..motion.kinematics import Kinematics
from ..status import ERROR, OK, WARN, Status
from ..types import Trajectory
from .agreement import Agreement
from .autonomy import Ladder
from .inputs import Inputs, Measured
from .moving import Moving
from .rules import SafetyRules
from .stop import StopLatch
from .supervisor import Supervisor
from .verdict import Ages, Verdict, Violation, is_gate_hit

_REACTION_S = 1.0  # a yes that comes sooner after a proposal took another one's place was meant for the other
_COUNTED = ('forwarded', 'refused', 'stopped')


@dataclass(frozen=True)
class Clocks:
    """The times that a gate lives by.

    Attributes:
        stamp_ns: Time of the cell's stamps, ns; may jump.
        steady: Monotonic time in seconds.
        motion: Monotonic time in seconds by which the robot moves: that of a simulation where there is one.
    """

    stamp_ns: Callable[[], int] = time.time_ns
    steady: Callable[[], float] = time.monotonic
    motion: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class _Pending:
    trajectory: Trajectory
    stamp_ns: int
    since_s: float
    answers_from_s: float


class Gate:
    """The only one who commands the robot.

    Args:
        cell: Rules, monitors and ladder read their limits there.
        ladder: Modes and evidence.
        send: Gives the controllers a trajectory, or an empty one for None; answers with its stamp in ns.
        tell: Shows a status.
        approve_timeout_s: No answer of the operator for so long is a no.
        cooldown_s: Time after a stop during which a reset is refused.
        clocks: Replaced in tests and simulations.
        stopped: What had stopped the gate that this one takes the place of, by cause: it needs a reset still.

    Attributes:
        commands: Whether anything is sent. What stops the robot is latched where nothing is, too.
    """

    def __init__(self, cell: Cell, ladder: Ladder, send: Callable[[Trajectory | None], int],
                 tell: Callable[[Status], None], *, approve_timeout_s: float = 30.0, cooldown_s: float = 1.0,
                 clocks: Clocks | None = None, stopped: Mapping[str, str] | None = None) -> None:
        self.commands = True
        self._cell, self._ladder, self._send, self._tell = cell, ladder, send, tell
        self._clocks = clocks or Clocks()
        self.approve_timeout_s = approve_timeout_s
        kinematics = Kinematics(cell)
        self._latch = StopLatch(cooldown_s, self._clocks.steady)
        for cause, message in (stopped or {}).items():
            self._latch.trigger(cause, message=message)
        self._rules = SafetyRules(cell, kinematics, self._latch)
        self.supervisor = Supervisor(cell, self._fault, self._clocks.steady, self._clocks.motion)
        self._agreement = Agreement(cell, kinematics)
        self._moving = Moving(cell, kinematics)
        self._inputs = Inputs()
        self._pending: _Pending | None = None
        self._unanswered = False  # the proposal that waited last has gone without an answer
        self._answered_s = -math.inf
        self._moved_ns = 0
        self._counts: Counter[str] = Counter()
        self._told_faults: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """``shadow``, ``approve`` or ``auto``."""
        return self._ladder.mode

    # --- what the cell says -------------------------------------------------------------------------------------

    def image(self, stamp_ns: int) -> None:
        """An image of this stamp exists."""
        self._inputs.image(stamp_ns)
        self.supervisor.image(stamp_ns)

    def joint_state(self, positions: np.ndarray, stamp_ns: int) -> None:
        """A usable joint state: (joints,) float64 in the cell file's order."""
        if not self._inputs.joint_state(Measured(self._cell.robot.joints, positions, stamp_ns)):
            return
        self._moving.joint_state(positions, stamp_ns)
        self.supervisor.joint_state(stamp_ns, positions[:len(self._cell.robot.arm_joints)])
        if self.mode == 'shadow' and self._agreement.measured(positions, self._clocks.motion()):
            self._tell(self.agreement_status())

    def other_command(self, trajectory: Trajectory) -> None:
        """Somebody else has commanded a controller."""
        if self.mode == 'shadow':
            self._agreement.command(trajectory, self._clocks.motion())

    def task(self, violation: Violation | None) -> None:
        """An instruction has come; with what it breaks, if anything, no proposal passes until the next one."""
        self._inputs.task(violation, self._clocks.steady(), self._clocks.stamp_ns())
        self._supersede('another instruction', 'a new instruction came while the proposal waited')

    def decided_by(self, checkpoint: str) -> None:
        """The agent tells which checkpoint (digest) decides."""
        if checkpoint and self._ladder.decided_by(checkpoint):
            self._supersede('another checkpoint', 'another checkpoint decides by now')
            self._tell(self.mode_status('another checkpoint decides'))

    def episode_ended(self, success: bool, judged_ns: int = 0) -> str:
        """The line or the operator has judged an episode; a sentence that says what it counts for.

        Args:
            success: Of the episode.
            judged_ns: Stamp of the image by which the line has judged it.
        """
        autonomy, flaw = self._cell.autonomy, ''
        if self._moved_ns and not autonomy.may_be_of(self._moved_ns, judged_ns):
            flaw = f'the last motion was more than autonomy.outcome_within_s ({autonomy.outcome_within_s:g} s) before'
        elif self._moved_ns < self._inputs.task_ns < judged_ns:
            flaw = 'nothing was forwarded since the instruction'
        message = self._ladder.episode_ended(success, flaw)
        self._tell(self.mode_status(message))
        return message

    # --- proposals ----------------------------------------------------------------------------------------------

    def propose(self, trajectory: Trajectory | None, stamp_ns: int, age_s: float | None = None) -> None:
        """Judge a proposal, and do with it what the mode says.

        Args:
            trajectory: The motion; None where the proposal has no points.
            stamp_ns: Stamp of the image that it rests on.
            age_s: Time since it was published, where known.
        """
        now, before = self._clocks.steady(), self._inputs.proposal_at_s
        self._inputs.proposal_at_s = now
        self._supersede('another proposal', 'another proposal came while this one waited')
        if trajectory is None:
            self.refuse(Violation('points', 0, self._cell.safety.max_points, 'the proposal has no points'), stamp_ns)
            return
        verdict = self._judge(trajectory, stamp_ns, age_s, None if before is None else now - before)
        if verdict.rejection is not None:
            self.refuse(verdict.rejection, stamp_ns)
        elif self.mode == 'auto' and self._ladder.unknown:
            self.refuse(Violation('superseded', 'unknown', 'told', 'nobody has told yet which checkpoint decides'),
                        stamp_ns)
        elif self.mode == 'auto':
            self._forward(verdict, stamp_ns, 'passed every rule')
        elif self.mode == 'approve':
            meant_for_other = self._unanswered or now - self._answered_s < _REACTION_S
            self._pending = _Pending(trajectory, stamp_ns, now, now + (_REACTION_S if meant_for_other else 0.0))
            self._verdict('pending', 'waits for ~/approve', stamp_ns, verdict.violations)
        else:
            self._agreement.propose(trajectory)
            self._verdict('shadow', 'would pass every rule; nothing is forwarded in shadow mode', stamp_ns,
                          verdict.violations)

    def refuse(self, violation: Violation, stamp_ns: int) -> None:
        """A proposal broke a rule."""
        self._drop_pending()
        if violation.rule == 'stop':
            self._verdict('stopped', violation.message, stamp_ns, (violation,))
            return
        self._verdict('refused', violation.message, stamp_ns, (violation,))
        if violation.rule == 'approval':
            self._ladder.rejected()
        elif is_gate_hit(violation.rule) and self._ladder.gate_hit(violation.rule):
            self._tell(self.mode_status(violation.message))

    def _judge(self, trajectory: Trajectory, stamp_ns: int | None, proposal_s: float | None,
               since_last_s: float | None) -> Verdict:
        """The rules; without a stamp the age of the image is not judged, because an operator looks at the cell."""
        inputs, now_ns = self._inputs, self._clocks.stamp_ns()
        if inputs.measured is None:
            limit = self._cell.safety.max_joint_age_s
            return Verdict(None, (Violation('inputs', 'none', limit, 'no usable joint state has come yet'),))
        image_s = None if stamp_ns is None else (now_ns - stamp_ns) * 1e-9
        if not self._latch.active:  # which the rules say first
            if inputs.task_since_s is None:
                return Verdict(None, (Violation('task', 'none', 'an instruction', 'no instruction has come yet'),))
            if inputs.task_violation is not None:
                return Verdict(None, (inputs.task_violation,))
            if self.mode != 'shadow' and (deaf := self.supervisor.driver_fault):
                return Verdict(None, (Violation('driver', 'silent', 'there', deaf),))
            if stamp_ns is not None and image_s is not None:
                unusable = inputs.check_image(stamp_ns, image_s, self._cell.safety.max_image_age_s)
                if unusable is not None:
                    return Verdict(None, (unusable,))
        task_s = None if inputs.task_since_s is None else self._clocks.steady() - inputs.task_since_s
        verdict = self._rules.judge(trajectory, inputs.measured, ages=Ages(
            image_s=image_s, joint_s=(now_ns - inputs.measured.stamp_ns) * 1e-9, task_s=task_s, proposal_s=proposal_s,
            since_last_s=since_last_s))
        moving = None
        if verdict.trajectory is not None and self.mode != 'shadow':
            moving = self._moving.check_start(verdict.trajectory, inputs.measured.joint_positions)
        return verdict if moving is None else Verdict(None, (*verdict.violations, moving))

    def _forward(self, verdict: Verdict, stamp_ns: int, reason: str) -> None:
        assert verdict.trajectory is not None
        # safety.max_duration_s is for what was proposed: slowed down it may take longer, else waiting would buy speed.
        speed = self._ladder.speed
        trajectory = slowed(verdict.trajectory, speed)
        command_ns = self._send(trajectory)
        self.supervisor.command(trajectory, self._cell.motion.command_lead_s)
        self._moved_ns = max(self._clocks.stamp_ns(), command_ns)
        self._inputs.moved()
        self._ladder.moved()
        self._verdict('forwarded', reason, stamp_ns, verdict.violations,
                      {'command_stamp_ns': str(command_ns), 'speed': f'{speed:.3f}'})
        if verdict.violations and self._ladder.gate_hit(verdict.violations[0].rule):
            self._tell(self.mode_status(verdict.violations[0].message))

    # --- operator -----------------------------------------------------------------------------------------------

    def approve(self, yes: bool) -> tuple[bool, str]:
        """The operator's answer to the pending proposal; whether it was carried out, and a sentence."""
        pending, now = self._pending, self._clocks.steady()
        if pending is None:
            return False, 'no proposal waits for approval'
        if yes and now < pending.answers_from_s:
            return False, f'this proposal came {now - pending.since_s:.1f} s ago in place of another: look at it, ' \
                'then answer again'
        self._pending, self._unanswered, self._answered_s = None, False, now
        if not yes:
            self.refuse(Violation('approval', 'no', 'yes', 'the operator said no'), pending.stamp_ns)
            return True, 'the proposal is refused'
        verdict = self._judge(pending.trajectory, None, now - pending.since_s, None)
        if verdict.rejection is not None:
            self.refuse(verdict.rejection, pending.stamp_ns)
            return False, verdict.rejection.message
        self._forward(verdict, pending.stamp_ns, 'approved by the operator')
        return True, 'the proposal is forwarded'

    def _supersede(self, value: str, message: str) -> None:
        """Refuse the proposal that waits, if one does: what it was made for is no longer so."""
        if self._pending is not None:
            self.refuse(Violation('superseded', value, 'the same', message), self._pending.stamp_ns)

    def _drop_pending(self) -> _Pending | None:
        """Nobody can answer the proposal that waits any more; what it was."""
        pending, self._pending = self._pending, None
        self._unanswered = self._unanswered or pending is not None
        return pending

    def stop(self, cause: str, message: str, persists: Callable[[], bool] = lambda: False) -> None:
        """Stop at once: the arm is commanded to brake, then everything else is seen to."""
        self._latch.trigger(cause, persists, message)
        self._hold()
        pending = self._drop_pending()
        self._tell(self.stop_status())
        self._verdict('stopped', f'stopped: {self._latch.reason}', pending.stamp_ns if pending else None,
                      (Violation('stop', cause, 'no stop', message),))
        if self._ladder.stopped(cause):
            self._tell(self.mode_status(f'stopped: {message}'))

    def end(self) -> bool:
        """The gate goes; whether a motion was under way, which is held, and is no mark against the checkpoint."""
        moving = self.supervisor.tracking.moving
        if moving:
            self._hold()
        return moving

    def reset(self) -> tuple[bool, str]:
        """Lift the stop, unless a cause persists or the cooldown has not passed."""
        lifted, message = self._latch.reset()
        self._tell(self.stop_status(message))
        return lifted, message

    def set_mode(self, mode: str, reason: str) -> tuple[bool, str]:
        """Change the mode; a motion that is under way is held before nothing may reach the robot any more."""
        if mode == 'shadow' and self.supervisor.tracking.moving:
            self._hold()
        deaf = self.supervisor.driver_fault if mode == 'auto' else ''
        changed, message = (False, f'no auto: {deaf}') if deaf else self._ladder.set_mode(mode, reason)
        if changed:
            self._supersede('another mode', 'the mode was changed while the proposal waited')
        if changed and mode == 'shadow':
            self.supervisor.tracking.forget_gripper()  # from now on somebody else commands it
        self._tell(self.mode_status(message, WARN if not changed else OK))
        return changed, message

    def poll(self) -> None:
        """Judge silence, that of the operator included; to be called every ``supervisor.POLL_S``."""
        self.supervisor.poll(agent_matters=self.mode != 'shadow')
        if (faults := tuple(self.supervisor.present)) != self._told_faults:  # a joint state may have changed them, too
            self._told_faults = faults
            self._tell(self.inputs_status())
        pending, limit_s = self._pending, self.approve_timeout_s
        if pending is not None and (waited_s := self._clocks.steady() - pending.since_s) > limit_s:
            self.refuse(Violation('approval', waited_s, limit_s, f'the operator gave no answer in {limit_s:g} s'),
                        pending.stamp_ns)

    def _fault(self, cause: str, persists: Callable[[], bool], message: str) -> None:
        if cause not in self._latch.causes:
            self.stop(cause, message, persists)

    def _hold(self) -> None:
        """Command the arm to brake. Zeros would be a slam to the zero pose; silence would let the motion go on.

        So would an empty trajectory, which joint_trajectory_controller refuses; that is all there is in the dark.
        """
        if self.mode == 'shadow' or not self.commands:
            return
        measured = self._inputs.measured
        motions = None if measured is None else self._moving.hold(
            measured.joint_positions, self.supervisor, self._clocks.motion())
        if motions is None:
            self._send(None)
            return
        for motion, command in motions:
            self._send(command)
            self.supervisor.command(motion)

    # --- what is told -------------------------------------------------------------------------------------------

    @property
    def stop_causes(self) -> dict[str, str]:
        """What has stopped the robot since the last reset, each with its sentence."""
        return self._latch.causes

    def mode_status(self, message: str = '', level: int = OK) -> Status:
        """Mode, its reason, and the evidence so far."""
        values = self._ladder.values()
        return Status('mode', WARN if 'failure' in values else level, message or f'{self.mode}: {values["reason"]}',
                      values)

    def stop_status(self, message: str = '') -> Status:
        """Whether the robot is stopped, and by what."""
        causes = self._latch.causes
        return Status('stop', ERROR if causes else OK, message or self._latch.reason or 'no stop',
                      {'active': str(bool(causes)).lower(), 'causes': ', '.join(causes),
                       **{f'cause.{cause}': text for cause, text in causes.items()}})

    def inputs_status(self) -> Status:
        """What the gate lives on: faults are named here also while the robot rests, when they stop nothing."""
        present = self.supervisor.present
        return Status('inputs', ERROR if present else OK, '; '.join(present.values()) or 'all there',
                      {'faults': ', '.join(present), **{f'fault.{cause}': text for cause, text in present.items()}})

    def agreement_status(self) -> Status:
        """What was done in shadow mode against what was proposed."""
        values = self._agreement.values()
        return Status('agreement', OK, f'{values["agreed"]} of {values["scored"]} agree', values)

    def waiting_status(self) -> Status:
        """The verdict before the first one."""
        return self._verdict_status('waiting', 'no proposal yet', {})

    def _verdict(self, verdict: str, message: str, stamp_ns: int | None, violations: tuple[Violation, ...] = (),
                 more: dict[str, str] | None = None) -> None:
        self._counts[verdict] += 1
        shown = next((v for v in violations if v.handled == 'reject'), next(iter(violations), None))
        values = {} if shown is None else {'rule': shown.rule, 'value': str(shown.value), 'limit': str(shown.limit)}
        values['clamped'] = ', '.join(v.rule for v in violations if v.handled == 'clamp')
        if stamp_ns is not None:
            values['image_stamp_ns'] = str(stamp_ns)
        self._tell(self._verdict_status(verdict, message, {**values, **(more or {})}))

    def _verdict_status(self, verdict: str, message: str, values: dict[str, str]) -> Status:
        level = ERROR if self._latch.active else WARN if verdict == 'refused' else OK
        return Status('verdict', level, message, {'verdict': verdict, 'mode': self.mode, **values,
                                                  **{name: str(self._counts[name]) for name in _COUNTED}})
