"""The half of part ``fuzz`` that goes through a gate process: what it commands is checked as it leaves the gate."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.motion import Kinematics
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import to_time, trajectory_from, trajectory_message
from vlm_agent_ros.types import Trajectory

from .bench import Bench
from .check_setup import CheckSetup
from .independent_checker import IndependentChecker
from .proposals import FRESH, NEAR, Measured, Proposal, Proposals

SECTIONS = {
    'safety': {'max_rate_hz': 1e5},
    # With every proposal the robot is somewhere else and its sensors' stamps jump, which are no faults here.
    'autonomy': {'tracking_tolerance': 3.2, 'trigger_count': 100, 'camera_timeout_s': 60.0, 'joint_timeout_s': 60.0},
}
"""What the cell file of a fuzzed gate has to say."""
_PROPOSALS, _QUICK = 10_000, 300
_LEAST_SHARE = 0.1  # of the proposals; a third is usual
_MALFORMED_SHARE = 0.3  # of the broken proposals
_MANY = 2000  # points
_ANSWER_S = 20.0
_QUIET_S = 0.2
_INT32_S = 2**31  # stamps and durations carry fewer seconds


def run(setup: CheckSetup, cell: str) -> Counter[str]:
    """Counts of ``fuzz_node`` for thousands of proposals.

    Args:
        setup: Of the part.
        cell: Path of the cell file.

    Raises:
        UserError: The gate does not come up, does not answer, stops, or forwards too little to judge it by.
    """
    count = _QUICK if setup.quick else _PROPOSALS
    with Bench(replace(setup, cell=cell), 'node_fuzz', **SECTIONS) as bench:
        checker = IndependentChecker(Path(bench.cell.path), bench.cell.urdf_path)
        proposals = Proposals(bench.cell, Kinematics(bench.cell), (setup.seed, _PROPOSALS))
        counts = fuzz_node(bench, checker, itertools.islice(filter(is_sendable, proposals), count))
    if counts['forwarded'] < _LEAST_SHARE * count:
        raise UserError(f'the gate forwarded only {counts["forwarded"]} of {count} proposals, too few to judge it by: '
                        f'{setup.folder / "node_fuzz" / "gate.log"} says why')
    return counts


def is_sendable(proposal: Proposal) -> bool:
    """Whether a message can carry a proposal, and stamps alone can make everything as old as it says.

    How old the task and the proposal itself are, the gate finds out by clocks that no message sets.
    """
    ages, now_s = proposal.ages, time.time()
    stamped = [now_s - (ages.image_s or 0.0), now_s - (ages.joint_s or 0.0), *proposal.trajectory.times_ns * 1e-9]
    return replace(ages, image_s=FRESH.image_s, joint_s=FRESH.joint_s) == FRESH \
        and bool((np.abs(stamped) < _INT32_S - 1).all()) and min(stamped[:2]) > 0.0


def fuzz_node(bench: Bench, checker: IndependentChecker, proposals: Iterable[Proposal]) -> Counter[str]:
    """Put proposals to a running gate one at a time, and every command that it publishes to the checker.

    Args:
        bench: With ``SECTIONS``; its gate is started here.
        checker: Of the limits that no command may break.
        proposals: Each passes ``is_sendable``.

    Returns:
        Counts as those of ``fuzz.fuzz``, and ``through the node``. A command that no verdict announced is unsafe, too.

    Raises:
        UserError: The gate does not come up, does not answer, or stops; at the end it has to forward a harmless
            proposal still.
    """
    dialogue, counts, rng = _Dialogue(bench), Counter[str](), np.random.default_rng(0)
    bench.start_gate()
    bench.stop_sensing()
    dialogue.require_harmless_forwarded()
    for proposal in proposals:
        message = _message(proposal.trajectory)
        if proposal.kind == 'broken' and message.points and rng.random() < _MALFORMED_SHARE:
            _malform(message, rng)
        answer = dialogue.propose(proposal, message)
        problems = {problem for command in answer.commands
                    for problem in _problems(checker, command, proposal.measured.joint_positions)}
        if answer.commands:  # judged in between: an age above zero grew, one below zero shrank
            problems.update(set(checker.problems_of_ages(answer.ages_before))
                            & set(checker.problems_of_ages(answer.ages_after)))
        if answer.unannounced:
            problems.add('unannounced')
        counts.update({'fuzzed': 1, 'through the node': 1, 'near a limit': proposal.kind in NEAR,
                       'forwarded': bool(answer.commands), 'clamped': answer.clamped, 'unsafe': bool(problems),
                       **{f'node: {proposal.kind}: {problem}': 1 for problem in problems}})
    dialogue.require_harmless_forwarded()
    return counts


def _problems(checker: IndependentChecker, message: JointTrajectory, measured: np.ndarray) -> list[str]:
    try:
        command = trajectory_from(message, 'a command')
    except UserError:
        return ['shape']
    return ['points'] if command is None else checker.problems(command, measured)


@dataclass(frozen=True)
class _Answer:
    """What the gate did with a proposal.

    Attributes:
        commands: For the arm, for the gripper or for both, as announced by the verdict.
        clamped: Something was changed.
        unannounced: Commands came before the proposal was made, or more than one for each half.
        ages_before: Ages (s) of image and joint state when the proposal was made; see ``problems_of_ages``.
        ages_after: The same when all commands had come.
    """

    commands: list[JointTrajectory]
    clamped: bool
    unannounced: bool
    ages_before: dict[str, float | None]
    ages_after: dict[str, float | None]


class _Dialogue:
    """Proposals to a gate, each made when the one before has been answered: the topic keeps only the newest."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._commands = bench, list[JointTrajectory]()
        for topic in (interface.ARM_COMMAND, interface.GRIPPER_COMMAND):
            bench.processes.node.create_subscription(JointTrajectory, topic, self._commands.append,
                                                     interface.RECORD_QOS)

    def propose(self, proposal: Proposal, message: JointTrajectory) -> _Answer:
        """Sense what was measured, propose, and wait for the verdict and for what it announces.

        Args:
            proposal: Says what was measured, and how old image and joint state are.
            message: What is proposed; it gets its stamp here.

        Raises:
            UserError: The gate does not answer, or is stopped.
        """
        processes, states = self._bench.processes, self._bench.states
        unannounced = bool(self._commands)
        self._commands.clear()
        states.clear()
        now_ns = time.time_ns()
        image_ns, joint_ns = (now_ns - round((age_s or 0.0) * 1e9)
                              for age_s in (proposal.ages.image_s, proposal.ages.joint_s))
        message.header.stamp = to_time(image_ns)
        self._bench.sense(proposal.measured.joint_positions, image_ns, joint_ns)
        before = _ages(image_ns, joint_ns)
        self._bench.proposals.publish(message)
        verdict = processes.require(lambda: self._verdict_on(image_ns), 'a verdict', _ANSWER_S)
        if verdict['verdict'] == 'stopped':
            raise UserError(f'the gate stopped while it was fuzzed ({verdict["value"]}), which nothing asked for')
        halves = {name in self._bench.cell.robot.arm_joints for name in message.joint_names}
        announced = len(halves) if verdict['verdict'] == 'forwarded' else 0
        processes.require(lambda: len(self._commands) >= announced, 'an announced command', _ANSWER_S)
        commands, after = self._commands[:announced], _ages(image_ns, joint_ns)
        unannounced = unannounced or len(self._commands) > announced
        self._commands.clear()
        return _Answer(commands, bool(verdict['clamped']) and announced > 0, unannounced, before, after)

    def require_harmless_forwarded(self) -> None:
        """See that the gate is alive, forwards what rests where the robot is, and sends nothing else afterwards.

        Raises:
            UserError: It does not.
        """
        robot = self._bench.cell.robot
        home = np.array([*robot.home, *[robot.gripper_open] * len(robot.gripper_joints)])
        rest = Trajectory(robot.joints, np.array([100_000_000]), home[None], np.zeros((1, len(home))))
        proposal = Proposal('rest', rest, Measured(robot.joints, home), FRESH)
        deadline = time.monotonic() + _ANSWER_S
        # What the sensors said while the gate was busy starting, it may not have heard yet.
        while not (answer := self.propose(proposal, _message(rest))).commands and time.monotonic() < deadline:
            self._bench.processes.spin(_QUIET_S)
        self._bench.processes.spin(_QUIET_S)
        if not answer.commands or answer.unannounced or self._commands:
            raise UserError('the gate does not forward a proposal to stay at home, or commands more than that: see '
                            f'gate.log in {Path(self._bench.cell.path).parent}')

    def _verdict_on(self, image_ns: int) -> dict[str, str]:
        """Values of the verdict on the proposal of a stamp; none where it has not come yet."""
        for array in self._bench.states:
            for status in array.status:
                values = {pair.key: pair.value for pair in status.values}
                if status.name == 'gate_node: verdict' and values.get('image_stamp_ns') == str(image_ns):
                    return values
        return {}


def _message(trajectory: Trajectory) -> JointTrajectory:
    """As ``trajectory_message``; velocities that are missing as a whole are missing in each point."""
    if not trajectory.velocities.size:
        trajectory = replace(trajectory, velocities=np.zeros((len(trajectory.times_ns), 0)))
    return trajectory_message(trajectory, 0)


def _malform(message: JointTrajectory, rng: np.random.Generator) -> None:
    """Make of a message with points what no ``Trajectory`` can express, or one with thousands of points."""
    if rng.random() < 0.5:
        point = message.points[rng.integers(len(message.points))]
        point.positions = point.positions[:-1]
    else:
        message.points = message.points * (_MANY // len(message.points) + 1)


def _ages(image_ns: int, joint_ns: int) -> dict[str, float | None]:
    now_ns = time.time_ns()
    return {'image_s': (now_ns - image_ns) * 1e-9, 'joint_s': (now_ns - joint_ns) * 1e-9}
