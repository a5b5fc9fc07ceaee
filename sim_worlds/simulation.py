"""A PyBullet scene of one cell: the arm with its low-poly meshes, the table, the objects, and the camera."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import numpy as np

from vlm_agent_ros.cell import Cell
from vlm_agent_ros.errors import UserError

from .bullet import BulletClient, pybullet, pybullet_data, silenced
from .scene import TABLE_CENTRE, TABLE_HALF, Conditions, Item

PHYSICS_HZ = 240
_ARM_FORCE = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # N m, the URDF's effort limits
_GRIPPER_FORCE = 30.0  # N per finger
_PAD_HALF_HEIGHT = 0.002
_RIM = (0.003, 0.006)  # half width and half height of a tray's rim, m
_SCRATCH_RGB = (0.05, 0.05, 0.05)

Part = tuple[tuple[float, float, float], tuple[float, float, float]]  # half extents and centre of a box, m


class Simulation:
    """Thin wrapper of one physics client; everything is rebuilt at ``build`` so that no episode sees an earlier one.

    Reloading costs some 10 ms; Bullet keeps warm-starting and broad-phase state across a mere repositioning, which
    would make an episode depend on what came before it.

    Args:
        cell: The cell.
        urdf: The Panda that is simulated; by default a low-poly one, whose pictures take a tenth of the time.
    """

    def __init__(self, cell: Cell, urdf: str = '') -> None:
        self.cell = cell
        with silenced():
            self._client = BulletClient(connection_mode=pybullet.DIRECT)
        self._urdf = urdf or _low_poly_panda()
        self.robot = self.table = -1
        self.bodies: list[int] = []

    def close(self) -> None:
        """Disconnect from the physics server; a second call does nothing."""
        if self._client.isConnected():
            self._client.disconnect()

    def build(self, cell: Cell, items: list[Item], conditions: Conditions, floor: tuple[float, float, float]) -> None:
        """A fresh scene with the arm at home, gripper open.

        Raises:
            UserError: The robot of the cell is not the one that is simulated; the scene before stays.
        """
        _check_robot(cell, self._urdf)
        self.cell, client = cell, self._client
        client.resetSimulation()
        client.setGravity(0.0, 0.0, -9.81)
        client.setPhysicsEngineParameter(fixedTimeStep=1.0 / PHYSICS_HZ, numSolverIterations=20,
                                         deterministicOverlappingPairs=1)
        self.table = self._box(TABLE_HALF, (*TABLE_CENTRE, cell.workspace.table_z - TABLE_HALF[2]), conditions.table)
        client.changeDynamics(self.table, -1, lateralFriction=0.8)
        self._box((3.0, 3.0, 0.01), (0.5, 0.0, cell.workspace.table_z - 0.7), floor)
        self.robot = client.loadURDF(self._urdf, useFixedBase=True,
                                     flags=pybullet.URDF_ENABLE_CACHED_GRAPHICS_SHAPES)
        self._index_joints()
        self.bodies = [self._item(item, conditions) for item in items]

    def _index_joints(self) -> None:
        client, robot = self._client, self.cell.robot
        names, links = {}, {}
        for i in range(client.getNumJoints(self.robot)):
            info = client.getJointInfo(self.robot, i)
            names[info[1].decode()], links[info[12].decode()] = i, i
        fingers = [i for name, i in names.items() if 'finger_joint' in name]
        self.arm = [names[name] for name in robot.arm_joints]
        self._fingers = fingers
        self._motors = self.arm + fingers
        self._forces = [*_ARM_FORCE[:len(self.arm)], *[_GRIPPER_FORCE] * len(fingers)]
        self._tool = links[robot.tool_frame]
        for joint, position in zip(self.arm, robot.home):
            client.resetJointState(self.robot, joint, position)
        for joint in fingers:
            client.resetJointState(self.robot, joint, robot.gripper_open)
            client.changeDynamics(self.robot, joint, lateralFriction=1.0, spinningFriction=0.01)
        if len(fingers) == 2:  # the URDF's mimic joint, which Bullet does not read: both fingers move as one
            gear = client.createConstraint(self.robot, fingers[0], self.robot, fingers[1], pybullet.JOINT_GEAR,
                                           (1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
            client.changeConstraint(gear, gearRatio=-1.0, erp=0.1, maxForce=50.0)
        self.command(np.append(robot.home, robot.gripper_open), np.zeros(len(robot.joints)))

    def _box(self, half: tuple[float, float, float], position: tuple[float, float, float],
             rgb: tuple[float, ...], mass: float = 0.0, yaw: float = 0.0) -> int:
        client = self._client
        shape = client.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half)
        visual = client.createVisualShape(pybullet.GEOM_BOX, halfExtents=half, rgbaColor=[*rgb, 1.0],
                                          specularColor=[0.0, 0.0, 0.0])
        return client.createMultiBody(mass, shape, visual, position, client.getQuaternionFromEuler((0.0, 0.0, yaw)))

    def _item(self, item: Item, conditions: Conditions) -> int:
        client, table = self._client, self.cell.workspace.table_z
        half = item.size / 2
        if item.kind == 'pad':
            return self._box((half, half, _PAD_HALF_HEIGHT), (*item.position, table + _PAD_HALF_HEIGHT), item.rgb,
                             yaw=item.yaw)
        if item.kind == 'tray':
            return self._tray(item)
        if item.kind == 'cube' and item.defect in _FLAWED:
            body = self._flawed_cube(item, conditions.mass)
        elif item.kind == 'cube':
            body = self._box((half, half, half), (*item.position, table + half), item.rgb, conditions.mass, item.yaw)
        else:
            shape = client.createCollisionShape(pybullet.GEOM_CYLINDER, radius=half, height=half)
            visual = client.createVisualShape(pybullet.GEOM_CYLINDER, radius=half, length=half,
                                              rgbaColor=[*item.rgb, 1.0])
            body = client.createMultiBody(conditions.mass, shape, visual, (*item.position, table + half / 2))
        client.changeDynamics(body, -1, lateralFriction=conditions.friction, spinningFriction=0.01,
                              rollingFriction=0.001)
        return body

    def _tray(self, item: Item) -> int:
        """A plate with a low rim."""
        client, half, (width, height) = self._client, item.size / 2, _RIM
        parts: list[Part] = [((half, half, _PAD_HALF_HEIGHT), (0.0, 0.0, 0.0))]
        for side in (-1.0, 1.0):
            along, up = side * (half - width), height - _PAD_HALF_HEIGHT
            parts += [((width, half, height), (along, 0.0, up)), ((half, width, height), (0.0, along, up))]
        halves, centres = [list(part) for part, _ in parts], [list(centre) for _, centre in parts]
        kinds = [pybullet.GEOM_BOX] * len(parts)
        shape = client.createCollisionShapeArray(kinds, halfExtents=halves, collisionFramePositions=centres)
        visual = self._visual([(part, item.rgb) for part in parts])
        return client.createMultiBody(0.0, shape, visual,
                                      (*item.position, self.cell.workspace.table_z + _PAD_HALF_HEIGHT),
                                      client.getQuaternionFromEuler((0.0, 0.0, item.yaw)))

    def _flawed_cube(self, item: Item, mass: float) -> int:
        """A cube with a flaw that is seen; what the gripper feels is a whole one."""
        client, half = self._client, item.size / 2
        shape = client.createCollisionShape(pybullet.GEOM_BOX, halfExtents=(half, half, half))
        visual = self._visual(_FLAWED[item.defect](item))
        return client.createMultiBody(mass, shape, visual, (*item.position, self.cell.workspace.table_z + half),
                                      client.getQuaternionFromEuler((0.0, 0.0, item.yaw)))

    def _visual(self, boxes: list[tuple[Part, tuple[float, float, float]]]) -> int:
        """A visual shape of several boxes, each of its own colour."""
        return self._client.createVisualShapeArray(
            [pybullet.GEOM_BOX] * len(boxes), halfExtents=[list(half) for (half, _), _ in boxes],
            visualFramePositions=[list(centre) for (_, centre), _ in boxes],
            rgbaColors=[[*rgb, 1.0] for _, rgb in boxes])

    def command(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Set-points of ``cell.robot.joints`` for the joint controllers (rad, m, rad/s, m/s)."""
        arm = len(self.arm)
        fingers = len(self._fingers)
        self._client.setJointMotorControlArray(
            self.robot, self._motors, pybullet.POSITION_CONTROL,
            targetPositions=[*positions[:arm], *[positions[arm]] * fingers],
            targetVelocities=[*velocities[:arm], *[velocities[arm]] * fingers],
            forces=self._forces, positionGains=[0.3] * (arm + fingers), velocityGains=[1.0] * (arm + fingers))

    def place_arm(self, arm: np.ndarray) -> None:
        """Put the arm to (arm joints,) rad, at rest, and hold it there; the gripper is commanded open."""
        for joint, position in zip(self.arm, arm):
            self._client.resetJointState(self.robot, joint, float(position))
        self.command(np.append(arm, self.cell.robot.gripper_open), np.zeros(len(arm) + 1))

    def settle(self, steps: int) -> None:
        """Let everything come to rest, then let what lies still sleep until it is touched.

        The contacts of resting objects would otherwise cost several times the arm's own physics.
        """
        self.step(steps)
        for body in self.bodies:
            self._client.changeDynamics(body, -1, activationState=pybullet.ACTIVATION_STATE_ENABLE_SLEEPING
                                        | pybullet.ACTIVATION_STATE_SLEEP)

    def step(self, steps: int) -> None:
        """Advance physics by ``steps`` / PHYSICS_HZ seconds."""
        for _ in range(steps):
            self._client.stepSimulation()

    def joint_state(self) -> tuple[np.ndarray, np.ndarray]:
        """Measured positions and velocities of ``cell.robot.joints`` (rad, m and per second)."""
        states = self._client.getJointStates(self.robot, [*self.arm, self._fingers[0]])
        return np.array([s[0] for s in states]), np.array([s[1] for s in states])

    def tool_position(self) -> np.ndarray:
        """(3,) position of the tool frame, m, base frame."""
        return np.array(self._client.getLinkState(self.robot, self._tool, computeForwardKinematics=True)[4])

    def position(self, index: int) -> np.ndarray:
        """(3,) centre of the ``index``-th item, m, base frame."""
        return np.array(self._client.getBasePositionAndOrientation(self.bodies[index])[0])

    def touches_table(self) -> bool:
        """Whether the arm or the gripper is in contact with the table."""
        return any(contact[3] > 0 for contact in self._client.getContactPoints(self.robot, self.table))

    def grips(self, index: int) -> bool:
        """Whether both fingers are in contact with the ``index``-th item."""
        touching = {c[3] for c in self._client.getContactPoints(self.robot, self.bodies[index])}
        return all(finger in touching for finger in self._fingers)

    def render(self, conditions: Conditions, light_colour: tuple[float, float, float]) -> np.ndarray:
        """(height, width, 3) uint8, rgb8, without sensor noise."""
        camera, client = self.cell.camera, self._client
        position = np.add(camera.position, conditions.camera_offset)
        target = np.add(camera.target, conditions.target_offset)
        view = client.computeViewMatrix(position.tolist(), target.tolist(), (0.0, 0.0, 1.0))
        projection = client.computeProjectionMatrixFOV(camera.fov_deg, camera.width / camera.height, 0.05, 5.0)
        pixels = client.getCameraImage(
            camera.width, camera.height, view, projection, shadow=0, renderer=pybullet.ER_TINY_RENDERER,
            lightDirection=conditions.light_direction, lightColor=light_colour, lightDistance=3.0,
            lightAmbientCoeff=conditions.ambient, lightDiffuseCoeff=conditions.diffuse, lightSpecularCoeff=0.0,
            flags=pybullet.ER_NO_SEGMENTATION_MASK)[2]
        return np.reshape(pixels, (camera.height, camera.width, 4))[:, :, :3].astype(np.uint8)


def _without_corner(item: Item) -> list[tuple[Part, tuple[float, float, float]]]:
    """A cube that lacks one of its upper corners away from the arm's base, where the camera is."""
    q = item.size / 4
    side = 1.0 if item.yaw > 0.0 else -1.0
    return [(part, item.rgb) for part in (((2 * q, 2 * q, q), (0.0, 0.0, -q)), ((q, 2 * q, q), (-q, 0.0, q)),
                                          ((q, q, q), (q, side * q, q)))]


def _scratched(item: Item) -> list[tuple[Part, tuple[float, float, float]]]:
    """A cube with a dark groove along its top."""
    half, groove = item.size / 2, item.size / 9
    return [(((half, half, half), (0.0, 0.0, 0.0)), item.rgb),
            (((0.9 * half, groove, 0.0005), (0.0, 0.0, half)), _SCRATCH_RGB)]


# Further defects, such as a wrong colour, are a matter of the item's colour.
_FLAWED = {'missing corner': _without_corner, 'scratch': _scratched}


def _check_robot(cell: Cell, urdf: str) -> None:
    """Refuse a cell whose robot is another one than the Panda of a URDF, with both fingers as one gripper joint."""
    robot, (joints, links) = cell.robot, _names(urdf)
    missing = [name for name in robot.arm_joints if name not in joints] + [robot.tool_frame] * (
        robot.tool_frame not in links)
    if missing:
        raise UserError(f'{cell.path}: {missing[0]!r} is no joint or link of the Panda that is simulated: correct '
                        'robot.arm_joints and robot.tool_frame')
    if len(robot.gripper_joints) > 1:
        raise UserError(f'{cell.path}: robot.gripper_joints names {len(robot.gripper_joints)} joints, but the gripper '
                        'that is simulated has one, which its other finger mimics: name one')


@cache
def _names(urdf: str) -> tuple[frozenset[str], frozenset[str]]:
    """Joints and links of a URDF."""
    root = ElementTree.parse(urdf).getroot()
    joints, links = (frozenset(part.attrib['name'] for part in root.findall(kind)) for kind in ('joint', 'link'))
    return joints, links


@cache
def _low_poly_panda() -> str:
    """The Panda of pybullet_data with its collision meshes as visuals: 3,440 faces instead of 101,735.

    Returns:
        Path of its URDF, a file in memory: Bullet reads files only, and one on the disk would outlive a killed world.
    """
    source = Path(pybullet_data.getDataPath()) / 'franka_panda'
    tree = ElementTree.parse(source / 'panda.urdf')
    for mesh in tree.getroot().iter('mesh'):
        name = Path(mesh.attrib['filename']).name
        mesh.attrib['filename'] = str(source / 'meshes' / 'collision' / name)
    descriptor = os.memfd_create('panda.urdf')
    with os.fdopen(descriptor, 'wb', closefd=False) as file:  # open as long as the process runs
        tree.write(file)
    return f'/proc/self/fd/{descriptor}'
