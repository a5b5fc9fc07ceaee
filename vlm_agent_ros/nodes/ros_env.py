"""Environment and start-up of ROS processes, the same for every node."""

from __future__ import annotations

import importlib
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config import resource_root
from ..errors import UserError, import_failure
from ..interrupt import Interrupt
from .process import end_with_starter

_WAKE_S = 0.1
_LAST_DOMAIN = 232  # the ports of any higher one would be beyond 65535


def keep_local() -> None:
    """Keep this process' ROS graph on the machine, unless the user decided otherwise. Call it before rclpy.init."""
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')


def loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which a process talks by UDP on 127.0.0.1 alone; none where the user decided otherwise.

    What Fast DDS keeps in shared memory is every process' business: one that is killed at the wrong moment holds up the
    others for seconds, or stops images from reaching anybody. Processes that keep to LOCALHOST hear those that have
    these variables, and are heard.

    Args:
        environment: Of the process.
    """
    profile, discovery = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'ROS_AUTOMATIC_DISCOVERY_RANGE'
    if profile in environment or environment.get(discovery, 'LOCALHOST') != 'LOCALHOST':
        return {}
    return {profile: str(resource_root() / 'config' / 'fastdds' / 'loopback.xml'), discovery: 'SYSTEM_DEFAULT'}


def chosen_domain(environment: Mapping[str, str]) -> int | None:
    """The ROS domain that the user has chosen; None where ``ROS_DOMAIN_ID`` is not set.

    Args:
        environment: Of the process.

    Raises:
        UserError: It is no domain.
    """
    said = environment.get('ROS_DOMAIN_ID', '').strip()
    if not said:
        return None
    if not (said.isascii() and said.isdecimal() and int(said) <= _LAST_DOMAIN):
        raise UserError(f'ROS_DOMAIN_ID is {said!r}, but must be a whole number from 0 to {_LAST_DOMAIN}: set it to '
                        'one up to 101, or unset it')
    return int(said)


def free_domain(candidates: Sequence[int] = range(1, 102)) -> int:
    """A ROS domain in which nobody on this machine is, so that two graphs do not meet.

    The first participant of domain d listens on UDP port 7400 + 250 d + 10; above 101 these reach into the range
    that Linux hands out to others.

    Raises:
        UserError: There is none.
    """
    shuffled = random.SystemRandom().sample(candidates, len(candidates))
    for domain in shuffled:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', 7410 + 250 * domain))
            except OSError:
                continue
        return domain
    raise UserError(f'every ROS domain from {min(candidates)} to {max(candidates)} is in use on this machine: set '
                    'ROS_DOMAIN_ID')


def run_module(module: str, args: list[str] | None = None) -> int:
    """Import the module of a node and call its ``main``: what is not installed is bad input too.

    Entry points call this instead of ``main``, because importing ROS and PyTorch takes seconds in which a user may
    press Ctrl-C.

    Args:
        module: Its full name.
        args: Command line, ``sys.argv`` by default.

    Returns:
        Exit status, as of ``run_node``.
    """
    # Nothing has to be closed yet, and compiled code that is being imported takes an exception for a reason to abort.
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    try:
        node = importlib.import_module(module)
    except ImportError as error:
        failure = import_failure(error)
        if failure is None:
            raise
        print(f'{module.rpartition(".")[2]}: {failure}', file=sys.stderr)
        return 2
    return int(node.main(args))


def run_node(name: str, create: Callable[[], Any], args: list[str] | None = None, *, last_word: bool = False) -> int:
    """Run one node until SIGINT or SIGTERM, in a single-threaded executor.

    Args:
        name: Default name of the node, for the error message.
        create: Makes the node; it is called after ``rclpy.init`` and may raise UserError. The node's ``close`` is
            called at the end.
        args: Command line, ``sys.argv`` by default.
        last_word: ``close`` still publishes. Otherwise a signal shuts ROS down at once, also where it lands in
            compiled code that is slow to return.

    Returns:
        Exit status: 0, or 2 after bad input, which is told on stderr in one sentence.
    """
    interrupt = Interrupt()
    for number in (signal.SIGINT, signal.SIGTERM) if last_word else (signal.SIGINT,):
        signal.signal(number, interrupt)
    try:
        end_with_starter()
        _run(create, args, interrupt, last_word)
        return 0
    except UserError as error:
        print(f'{name}: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    except Exception:
        if interrupt.received:
            return 0
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # launch may still pass on the Ctrl-C that has ended this


def _run(create: Callable[[], Any], args: list[str] | None, interrupt: Interrupt, last_word: bool) -> None:
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO if last_word else None)
    except Exception as error:  # rclpy has no public type for unusable ROS arguments
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f'unusable ROS arguments: {first_line}') from error
    node = None
    try:
        node = create()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if not last_word:
            executor.spin()
        # Nothing but Python handles a signal, once it is not waiting; where the exception gets lost, the mark does not.
        while last_word and rclpy.ok() and not interrupt.received:
            executor.spin_once(timeout_sec=_WAKE_S)
    except UserError:
        raise
    except Exception as error:
        # A signal shuts ROS down at once: a callback that is just then publishing fails, which means nothing.
        if rclpy.ok() and not isinstance(error, ExternalShutdownException):
            raise
    finally:
        interrupt.closing = True
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
