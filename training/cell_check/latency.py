"""How long the gate takes from a proposal to the command, and all but thinking from an image to the command."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image

from vlm_agent_ros.actions import Pick
from vlm_agent_ros.motion import SkillPlanner
from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import image_message

from .bench import Bench
from .check_setup import CheckSetup, Figures

_PAUSE_S = 0.1  # more proposals than any agent makes
_WARM_UP = 10
_IMAGE_SIDE = 224
_COMMAND_S = 5.0
_MOTION_S = 4.0  # a planned motion is over


def run(setup: CheckSetup) -> Figures:
    """Hundreds of legal proposals, one at a time; the start of the same motion again and again.

    Raises:
        UserError: The gate does not come up, or does not forward a proposal.
    """
    count = 20 if setup.quick else 600
    seconds = []
    with Bench(setup, 'latency') as bench:
        bench.start_gate()
        motion = bench.plan()
        bench.watch_closely()
        for _ in range(_WARM_UP + count):
            bench.processes.spin(_PAUSE_S)
            bench.commands.clear()
            started = bench.propose(motion)
            bench.processes.require(lambda: bench.commands, 'a command', _COMMAND_S)
            seconds.append(bench.commands[0][0] - started)
    milliseconds = np.array(seconds[_WARM_UP:]) * 1e3
    p50, p99 = (float(np.percentile(milliseconds, percent)) for percent in (50, 99))
    figures: Figures = {'gate_ms_p50': p50, 'gate_ms_p99': p99}
    return figures if setup.quick else {**figures, 'image_ms_p50': _image_to_command(setup)}


def _image_to_command(setup: CheckSetup) -> float:
    """From the publication of an image to the command, less the time that the agent was thinking; median in ms.

    The agent tells how long it took to think and to plan; how long planning takes is measured here.
    """
    with Bench(setup, 'image_latency', camera={'width': _IMAGE_SIDE, 'height': _IMAGE_SIDE}) as bench:
        node = bench.processes.node
        thoughts = bench.processes.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
        images = node.create_publisher(Image, interface.IMAGE, interface.SENSOR_QOS)
        bench.start_gate()
        start_hasty_agent(bench, setup.folder / 'image_latency', setup.seed)
        bench.processes.require(images.get_subscription_count, 'the agent to look')
        picture = np.full((_IMAGE_SIDE, _IMAGE_SIDE, 3), 128, np.uint8)
        planning_s = time_planning(bench)
        milliseconds: list[float] = []
        deadline = time.monotonic() + 120.0
        while len(milliseconds) < 20 and time.monotonic() < deadline:
            bench.processes.spin(0.5)
            thoughts.clear()
            bench.commands.clear()
            message = image_message(picture, bench.stamp_ns, bench.cell.camera.frame)
            started = time.monotonic()
            images.publish(message)
            if not bench.processes.wait(lambda: bench.commands, 3.0):
                continue  # random actions are often out of reach
            thinking_s = newest_latency_s(thoughts)
            if thinking_s:
                milliseconds.append((bench.commands[0][0] - started - thinking_s + planning_s) * 1e3)
            bench.processes.spin(_MOTION_S)
    median = float(np.median(milliseconds)) if milliseconds else float('nan')
    print(f'from a {_IMAGE_SIDE}x{_IMAGE_SIDE} image to the command, thinking excluded: p50 {median:.1f} ms of '
          f'{len(milliseconds)}')
    return median


def start_hasty_agent(bench: Bench, folder: Path, seed: int) -> None:
    """Start an agent with random weights, which says something of any image and waits for no answer."""
    from ..sft.tiny_vlm import TinyVlmConfig, build_tiny_vlm

    side = bench.cell.camera.width
    build_tiny_vlm(TinyVlmConfig(image_size=side, patch_size=side // 4, vision_width=16, vision_layers=1,
                                 text_width=16, text_layers=1, heads=2), folder / 'base', seed=seed)
    (folder / 'model.yaml').write_text(yaml.safe_dump({
        'base': str(folder / 'base'), 'lora': None, 'prompt': {'template': 'task: {task}'},
        'decoding': {'max_thought_chars': 20, 'max_new_tokens': 80}}), encoding='utf-8')
    bench.processes.start('agent', cell=bench.cell.path, model=str(folder / 'model.yaml'), temperature=1.0,
                          autostart=True, threads=1, max_rate_hz=30.0, proposal_timeout_s=0.1,
                          refusal_wait_s=0.0)


def time_planning(bench: Bench) -> float:
    """Median time (s) of planning a motion."""
    planner, seconds = SkillPlanner(bench.cell), []
    robot = bench.cell.robot
    positions = np.array([*robot.home, *[robot.gripper_open] * len(robot.gripper_joints)])
    for _ in range(20):
        started = time.monotonic()
        planner.plan(Pick(bench.cell.grid // 2, bench.cell.grid // 2), robot.joints, positions)
        seconds.append(time.monotonic() - started)
    return float(np.median(seconds))


def newest_latency_s(arrays: list[DiagnosticArray]) -> float:
    """How long the newest decision took, planning included; 0 where none has been seen."""
    latencies = [float(pair.value) for array in arrays for status in array.status
                 if status.name == 'agent_node: chain of thought' for pair in status.values if pair.key == 'latency_ms']
    return latencies[-1] * 1e-3 if latencies else 0.0
