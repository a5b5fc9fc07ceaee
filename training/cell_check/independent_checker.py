"""What leaves the gate, checked by code that shares nothing with the rules.

It reads limits from the cell file and kinematics from the URDF itself, multiplies the transforms of the URDF, samples
cubics densely, and takes differences where the rules take derivatives and bounds.
"""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vlm_agent_ros.types import Trajectory

# The cell file's defaults, written down a second time: a changed default has to be changed here too, knowingly.
_SAFETY = {'max_image_age_s': 1.0, 'max_joint_age_s': 0.5, 'max_task_age_s': 3600.0, 'max_proposal_age_s': 60.0,
           'max_rate_hz': 20.0, 'max_start_error': 0.1, 'max_outside': 0.01, 'jump_time_s': 0.1,
           'velocity_tolerance': 0.05, 'acceleration_tolerance': 0.4, 'max_tool_speed': 1.5, 'max_gripper_force': None,
           'max_duration_s': 30.0, 'max_points': 2000, 'collision': True}
_AGES = {'image_s': 'max_image_age_s', 'joint_s': 'max_joint_age_s', 'task_s': 'max_task_age_s',
         'proposal_s': 'max_proposal_age_s'}
_AHEAD_S = 0.1  # by which clocks may disagree
_PER_SEGMENT = 17
_COLLISION_SAMPLES = 16
_STOP_SAMPLES = 401
_SPHERES = 4  # inscribed in each capsule: they overlap only where the capsules do
_ROUNDING = 2e-6
_RELATIVE = 1e-6
# What docs/gate.md grants between the points of a motion: joint limits (rad, m), the tool's box, shapes (m), its speed.
_OVERSHOOT, _CURVATURE, _TOUCH, _SPEED = 1e-4, 3e-3, 1.5e-3, 5e-3


class IndependentChecker:
    """Tells which limits of a cell file a command breaks.

    Args:
        cell: Path of the cell file.
        urdf: Path of its URDF.
    """

    def __init__(self, cell: Path, urdf: Path) -> None:
        content: dict[str, Any] = yaml.safe_load(cell.read_text(encoding='utf-8'))
        self._robot, self._workspace = content['robot'], content['workspace']
        self._safety = {**_SAFETY, **content.get('safety', {})}
        self._arm, self._gripper = list(self._robot['arm_joints']), list(self._robot['gripper_joints'])
        self._names = self._arm + self._gripper
        root = ElementTree.parse(urdf).getroot()
        joints = {joint.attrib['name']: joint for joint in root.iter('joint')}
        limits = [joints[name].find('limit').attrib for name in self._names]  # type: ignore[union-attr]
        self._lower = np.array([float(limit['lower']) for limit in limits])
        self._upper = np.array([float(limit['upper']) for limit in limits])
        if 'min_position' in self._robot:
            self._lower = np.maximum(self._lower, self._robot['min_position'])
        if 'max_position' in self._robot:
            self._upper = np.minimum(self._upper, self._robot['max_position'])
        velocity = np.minimum(self._robot['max_velocity'], [float(limit['velocity']) for limit in limits])
        self._velocity = velocity * (1.0 + self._safety['velocity_tolerance'])
        self._acceleration = np.array(self._robot['max_acceleration']) * (1.0 + self._safety['acceleration_tolerance'])
        force = self._safety['max_gripper_force']
        self._effort = np.array([0.0] * len(self._arm) + [
            min(float(limit['effort']), np.inf if force is None else force) for limit in limits[len(self._arm):]])
        self._read_links(root, joints)

    def problems_of_ages(self, ages: dict[str, float | None]) -> list[str]:
        """Limits that the ages (s) of a proposal break; None where nothing ages, ``since_last_s`` among them."""
        found = [name for name, key in _AGES.items()
                 if ages.get(name) is not None and not -_AHEAD_S <= float(ages[name] or 0.0) <= self._safety[key]]
        since_s = ages.get('since_last_s')
        return found + (['rate'] if since_s is not None and not since_s >= (1 - _RELATIVE) / self._safety['max_rate_hz']
                        else [])

    def problems(self, command: Trajectory, measured: np.ndarray) -> list[str]:
        """Limits that a command breaks.

        Args:
            command: As it leaves the gate; arm and gripper together or one of them.
            measured: (joints,) positions of arm, then gripper when it was sent.
        """
        names, times = list(command.joint_names), [int(time) for time in command.times_ns]
        groups = [group for group in (self._arm, self._gripper) if set(group) & set(names)]
        if sorted(names) != sorted(name for group in groups for name in group) or not names:
            return ['joints']
        shape = (len(times), len(names))
        arrays = [command.positions, command.velocities] + ([] if command.efforts is None else [command.efforts])
        if not 1 <= len(times) <= self._safety['max_points'] or any(array.shape != shape for array in arrays):
            return ['shape']
        if any(not np.isfinite(array).all() for array in arrays):
            return ['finite']
        if times[0] < 0 or any(a >= b for a, b in itertools.pairwise(times)) \
                or times[-1] > self._safety['max_duration_s'] * 1e9:
            return ['time']
        columns = [self._names.index(name) for name in names]
        return self._of_joints(command, measured[columns], np.array(columns)) + self._of_arm(command, measured)

    def problems_of_stop(self, command: Trajectory, measured: np.ndarray, rates: np.ndarray) -> list[str]:
        """Limits that a stop of the arm breaks, one point at which it comes to rest.

        Args:
            command: As it leaves the gate.
            measured: (arm joints,) rad in the last joint state before.
            rates: (arm joints,) rad/s, the difference of the last two.
        """
        if list(command.joint_names) != self._arm:
            return ['joints']
        if command.positions.shape != (1, len(self._arm)) or command.velocities.shape != command.positions.shape:
            return ['shape']
        end, duration_s = command.positions[0], float(command.times_ns[0]) * 1e-9
        if not (np.isfinite(end).all() and np.isfinite(command.velocities).all()):
            return ['finite']
        if not 0.0 < duration_s <= self._safety['max_duration_s']:
            return ['time']
        arm = slice(len(self._arm))
        lower, upper = np.minimum(self._lower[arm], measured), np.maximum(self._upper[arm], measured)
        # The controller's cubic from the measured state on, by differences.
        s = np.linspace(0.0, 1.0, _STOP_SAMPLES)[:, None]
        path = measured + (end - measured) * s**2 * (3.0 - 2.0 * s) + rates * duration_s * s * (1.0 - s)**2
        change = np.abs(np.diff(path, 2, axis=0)).max(axis=0) / (duration_s / (_STOP_SAMPLES - 1))**2
        found = {'position': bool((np.maximum(end - upper, lower - end) > _ROUNDING).any()),
                 'acceleration': bool((change > self._acceleration[arm] * (1.0 + _RELATIVE)).any()),
                 'end': bool(command.velocities.any())}
        return [name for name, broken in found.items() if broken]

    # --- joints -------------------------------------------------------------------------------------------------

    def _of_joints(self, command: Trajectory, start: np.ndarray, columns: np.ndarray) -> list[str]:
        lower, upper = self._lower[columns], self._upper[columns]
        velocity, acceleration = self._velocity[columns], self._acceleration[columns]
        first, last = command.positions[0], command.velocities[-1]
        arm = columns < len(self._arm)
        _, position, rate, change = self._dense(command, start, arm)
        found = {
            'start': np.abs(first - start)[arm].max(initial=0.0) > self._safety['max_start_error'],
            'position at a point': np.maximum(command.positions - upper, lower - command.positions).max() > _ROUNDING,
            'position': np.maximum(position - upper, lower - position).max() > _OVERSHOOT + _ROUNDING,
            'velocity': (np.abs(rate) > velocity * (1 + _RELATIVE)).any(),
            'acceleration': (np.abs(change) > acceleration * (1 + _RELATIVE)).any(),
            'end': (np.abs(last) > acceleration * self._safety['jump_time_s'] * (1 + _RELATIVE)).any(),
            'effort': command.efforts is not None and (np.abs(command.efforts) > self._effort[columns]).any()}
        return [name for name, broken in found.items() if broken]

    def _dense(self, command: Trajectory, start: np.ndarray, arm: np.ndarray
               ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Times (samples,) and positions, velocities, accelerations (samples, joints) from the measured position on."""
        times, jump_s = command.times_ns * 1e-9, self._safety['jump_time_s']
        began = -jump_s if command.times_ns[0] == 0 else 0.0
        before = start if began == 0.0 else np.where(arm, start, command.positions[0])
        t = np.concatenate([[began], times])
        p = np.concatenate([before[None], command.positions])
        v = np.concatenate([np.zeros((1, len(start))), command.velocities])
        h = np.diff(t)[:, None, None]
        mean = np.diff(p, axis=0)[:, None] / h
        # p + v x + b x² + c x³ over the time x since the segment began.
        b, c = (3 * mean - 2 * v[:-1, None] - v[1:, None]) / h, (v[:-1, None] + v[1:, None] - 2 * mean) / h**2
        x = np.linspace(0.0, 1.0, _PER_SEGMENT)[None, :, None] * h
        joints = len(start)
        return ((t[:-1, None] + x[:, :, 0]).ravel(),
                (p[:-1, None] + x * (v[:-1, None] + x * (b + x * c))).reshape(-1, joints),
                (v[:-1, None] + x * (2 * b + 3 * c * x)).reshape(-1, joints), (2 * b + 6 * c * x).reshape(-1, joints))

    # --- arm ----------------------------------------------------------------------------------------------------

    def _of_arm(self, command: Trajectory, measured: np.ndarray) -> list[str]:
        if self._arm[0] not in command.joint_names:
            return []
        order = [command.joint_names.index(name) for name in self._arm]
        arm = Trajectory(tuple(self._arm), command.times_ns, command.positions[:, order], command.velocities[:, order])
        times, position, _, _ = self._dense(arm, measured[:len(self._arm)], np.ones(len(self._arm), dtype=bool))
        frames = self._frames(position)
        tool = frames[self._tool[0]] @ self._tool[1]
        low, high = np.array(self._workspace['low']), np.array(self._workspace['high'])
        outside = np.hstack([low - tool[:, :3], tool[:, :3] - high])
        # Of a motion that begins a little outside: what is left of that, and granted twice.
        left = np.minimum.accumulate(np.maximum(outside, 0.0), axis=0)
        allowed_outside = np.where(self._may_return(outside), left + 2 * _CURVATURE, 0.0)
        step, way = np.diff(times), np.linalg.norm(np.diff(tool[:, :3], axis=0), axis=1)
        allowed = self._safety['max_tool_speed'] * (1.0 + self._safety['velocity_tolerance']) + _SPEED
        found = {
            'workspace at a point': (outside - allowed_outside)[_PER_SEGMENT - 1::_PER_SEGMENT].max() > _ROUNDING,
            'workspace': (outside - np.maximum(allowed_outside, _CURVATURE)).max() > _ROUNDING,
            'workspace at the end': outside[-1].max() > _ROUNDING,
            'tool speed': (way > allowed * step + 1e-9).any(),
            'keep-out': any((np.minimum(tool[:, :3] - box['low'], box['high'] - tool[:, :3]).min(axis=1) > _TOUCH).any()
                            for box in self._workspace.get('keep_out', ()))}
        if self._safety['collision']:
            chosen = np.linspace(0, len(times) - 1, min(len(times), _COLLISION_SAMPLES)).astype(int)
            found |= self._of_links([frame[chosen] for frame in frames])
        return [name for name, broken in found.items() if broken]

    def _may_return(self, outside: np.ndarray) -> np.ndarray:
        """(faces,) those that a motion, by (samples, faces) m outside of each, begins so little beyond that it may."""
        return (outside[0] > 0.0) & (outside[0] <= self._safety['max_outside'] + _ROUNDING)

    def _of_links(self, frames: list[np.ndarray]) -> dict[str, bool]:
        centres = np.concatenate([(frames[body] @ spheres.T).swapaxes(1, 2)[:, :, :3]
                                  for body, spheres in self._spheres], axis=1)
        bodies, radii = self._bodies, self._radii
        below = self._workspace.get('table_z', 0.0) - (centres[..., 2] - radii)[:, bodies > 1]
        below = below.reshape(len(below), -1, _SPHERES).max(axis=2)  # of each shape: its ends are spheres
        allowed = np.where(self._may_return(below), below[0] + _TOUCH, 0.0) + _TOUCH
        found = {'table': bool((below > allowed).any() or below[-1].max() > _TOUCH)}
        for box in self._workspace.get('keep_out', ()):
            outside = np.maximum(0.0, np.maximum(box['low'] - centres, centres - box['high']))
            inside = np.linalg.norm(outside, axis=2) < radii - _TOUCH
            found['keep-out by a link'] = found.get('keep-out by a link', False) or bool(inside[:, bodies > 0].any())
        gap = np.linalg.norm(centres[:, self._one] - centres[:, self._other], axis=2)
        return found | {'self-collision': bool((gap < radii[self._one] + radii[self._other] - _TOUCH).any())}

    # --- the URDF -----------------------------------------------------------------------------------------------

    def _read_links(self, root: ElementTree.Element, joints: dict[str, ElementTree.Element]) -> None:
        """The arm as products of its joints' transforms; every link fixed to one of them or to the base (body 0)."""
        above = {joint.find('child').attrib['link']: joint for joint in joints.values()}  # type: ignore[union-attr]

        def place(link: str) -> tuple[int, np.ndarray]:
            fixed = np.eye(4)
            while link in above and link != self._robot['base_frame']:
                joint = above[link]
                if joint.attrib['name'] in self._arm:
                    return self._arm.index(joint.attrib['name']) + 1, fixed
                fixed = _transform(joint.find('origin')) @ fixed
                link = joint.find('parent').attrib['link']  # type: ignore[union-attr]
            return 0, fixed

        self._steps = []
        for name in self._arm:
            _, before = place(joints[name].find('parent').attrib['link'])  # type: ignore[union-attr]
            axis = np.array(joints[name].find('axis').attrib['xyz'].split(), dtype=float)  # type: ignore[union-attr]
            fixed = before @ _transform(joints[name].find('origin'))
            self._steps.append([fixed @ part for part in _turning(axis)])
        body, fixed = place(self._robot['tool_frame'])
        self._tool = body, fixed[:, 3]
        self._spheres: list[tuple[int, np.ndarray]] = []
        dense: list[tuple[int, np.ndarray]] = []
        numbers: list[int] = []
        radii: list[float] = []
        shapes = [(link.attrib['name'], shape) for link in root.iter('link') for shape in link.iter('collision')]
        for number, (name, collision) in enumerate(shapes):
            body, fixed = place(name)
            axis, radius = _cylinder(collision)
            pose = fixed @ _transform(collision.find('origin'))
            for count, kept in ((_SPHERES, self._spheres), (4 * _SPHERES, dense)):
                along = np.linspace(-0.5, 0.5, count)[:, None] * axis
                kept.append((body, np.hstack([along, np.ones((count, 1))]) @ pose.T))
            numbers += [number] * _SPHERES
            radii += [radius] * _SPHERES
        self._bodies = np.repeat([body for body, _ in self._spheres], _SPHERES)
        self._radii = np.array(radii)
        apart = self._apart(dense)
        pairs = np.array([(i, j) for i in range(len(numbers)) for j in range(len(numbers))
                          if (numbers[i], numbers[j]) in apart], dtype=int).reshape(-1, 2)
        self._one, self._other = pairs.T

    def _apart(self, dense: list[tuple[int, np.ndarray]]) -> set[tuple[int, int]]:
        """Shapes of bodies that no joint connects, and that are apart in the home pose."""
        frames = self._frames(np.array(self._robot['home'], dtype=float)[None])
        centres = [(spheres @ frames[body][0].T)[:, :3] for body, spheres in dense]
        radii = self._radii[::_SPHERES]
        return {(i, j) for i in range(len(dense)) for j in range(len(dense)) if dense[j][0] - dense[i][0] > 1
                and np.linalg.norm(centres[i][:, None] - centres[j][None], axis=2).min() > radii[i] + radii[j] + 5e-3}

    def _frames(self, arm: np.ndarray) -> list[np.ndarray]:
        """(samples, 4, 4) of the base and of what each joint of the arm (samples, joints) moves."""
        frames = [np.broadcast_to(np.eye(4), (len(arm), 4, 4))]
        for (still, cosine, sine), angle in zip(self._steps, arm.T[:, :, None, None]):
            frames.append(frames[-1] @ (still + np.cos(angle) * cosine + np.sin(angle) * sine))
        return frames


def _turning(axis: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(4, 4) each: a turn about an axis (3,) is the first + cos(angle) of the second + sin(angle) of the third."""
    x, y, z = axis / np.linalg.norm(axis)
    along, across, cross = np.eye(4), np.zeros((4, 4)), np.zeros((4, 4))
    along[:3, :3] = [[x*x, x*y, x*z], [y*x, y*y, y*z], [z*x, z*y, z*z]]
    across[:3, :3] = np.eye(3) - along[:3, :3]
    cross[:3, :3] = [[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]
    return along, across, cross


def _transform(origin: ElementTree.Element | None) -> np.ndarray:
    """(4, 4) of an origin element: fixed axes roll, pitch, yaw."""
    xyz, rpy = ([float(number) for number in (origin.get(key, '0 0 0') if origin is not None else '0 0 0').split()]
                for key in ('xyz', 'rpy'))
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array([[cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr, xyz[0]],
                     [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr, xyz[1]],
                     [-sp, cp * sr, cp * cr, xyz[2]], [0.0, 0.0, 0.0, 1.0]])


def _cylinder(collision: ElementTree.Element) -> tuple[np.ndarray, float]:
    """Axis (3,) with the length of a cylinder or the largest one within a box or sphere, and its radius, m."""
    shape = collision.find('geometry')[0]  # type: ignore[index]
    if shape.tag == 'box':
        size = np.array(shape.attrib['size'].split(), dtype=float)
        longest = int(np.argmax(size))
        return np.eye(3)[longest] * size[longest], float(np.delete(size, longest).min() / 2)
    return np.array([0.0, 0.0, float(shape.get('length', 0.0))]), float(shape.attrib['radius'])
