"""From the publication of an image to the agent's proposal, less its inference."""

from __future__ import annotations

import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vlm_agent_ros.nodes import interface
from vlm_agent_ros.nodes.messages import image_message

from ..cell_check.bench import Bench
from ..cell_check.check_setup import CheckSetup
from ..cell_check.latency import newest_latency_s, start_hasty_agent, time_planning
from .bench_setup import BenchSetup

_LIMIT_S = 40.0
_WAIT_S = 1.5


def image_to_proposal(setup: BenchSetup, size: int, count: int) -> float:
    """Median in ms of so many proposals; nothing moves, for there is no gate.

    The agent tells how long it took to think and to plan; how long planning takes is measured here.

    Args:
        setup: Its folder gets the logs.
        size: Width and height of the images, pixels.
        count: Proposals.

    Returns:
        NaN where no action of the agent, whose weights are random, was within reach.

    Raises:
        UserError: The agent does not come up.
    """
    check = CheckSetup(setup.seed, setup.quick, setup.folder / 'ros')
    with Bench(check, 'proposal_latency', camera={'width': size, 'height': size}) as bench:
        node = bench.processes.node
        thoughts = bench.processes.collect(DiagnosticArray, interface.DIAGNOSTICS, interface.EVENT_QOS)
        proposals: list[float] = []
        node.create_subscription(JointTrajectory, interface.PROPOSAL, lambda _: proposals.append(time.monotonic()),
                                 interface.COMMAND_QOS, raw=True)
        images = node.create_publisher(Image, interface.IMAGE, interface.SENSOR_QOS)
        node.create_publisher(String, interface.TASK, interface.LATCHED_QOS).publish(String(data='pick the red cube'))
        start_hasty_agent(bench, check.folder / 'proposal_latency', setup.seed)
        bench.processes.require(images.get_subscription_count, 'the agent to look')
        picture, planning_s = np.full((size, size, 3), 128, np.uint8), time_planning(bench)
        milliseconds: list[float] = []
        deadline = time.monotonic() + _LIMIT_S
        while len(milliseconds) < count and time.monotonic() < deadline:
            bench.processes.spin(0.2)
            thoughts.clear()
            proposals.clear()
            message = image_message(picture, bench.stamp_ns, bench.cell.camera.frame)
            started = time.monotonic()
            images.publish(message)
            if not bench.processes.wait(lambda: proposals, _WAIT_S):
                continue  # random actions are often out of reach
            arrived = proposals[0]
            if bench.processes.wait(lambda: newest_latency_s(thoughts), _WAIT_S):
                milliseconds.append((arrived - started - newest_latency_s(thoughts) + planning_s) * 1e3)
    return float(np.median(milliseconds)) if milliseconds else float('nan')
