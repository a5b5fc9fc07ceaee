"""Checkpoints of a running agent: swapped by service, judged by what the gate and the line say, and rolled back."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from std_srvs.srv import Trigger

from ..cell import load_cell
from ..config import bounded
from ..cot import unescape
from ..errors import UserError
from ..release.keeper import Keeper
from ..release.ledger import Ledger, Release, RolledBack
from ..status import OK
from . import interface
from .decider import Decided, Decider, DeciderSettings
from .lifecycle import ManagedNode
from .messages import outcome_from, to_ns
from .own_files import state_file
from .status_names import is_of_this_cell

_VERDICT = ': verdict'
CHANGEABLE = ('next_model', 'readmit')
"""Parameters that an operator sets while the node runs."""


@dataclass(frozen=True)
class ReleaseSettings(DeciderSettings):
    """What decides, and what may take its place."""

    next_model: str = bounded('', help='what ~/swap loads: as model')
    readmit: str = bounded('', help='which checkpoint that was rolled back may try again, once: as its refusal says')
    release_file: str = bounded('', help='JSON file of the good checkpoint and those that were rolled back; empty for '
                                'vlm_agent_ros/<namespace>/<cell>-releases.json in $XDG_STATE_HOME or '
                                '~/.local/state')


class Releases:
    """Loads the checkpoint that decides, and later another one beside it, in a thread of its own.

    Args:
        node: The agent.
        settings: Its parameters.
        loaded: Called in the executor when a checkpoint has been loaded and asks to take over.
        judged: Called with the values of every verdict of this cell's gate.

    Raises:
        UserError: Cell, checkpoint or ledger are missing, unusable or refused.
    """

    def __init__(self, node: ManagedNode, settings: ReleaseSettings, loaded: Callable[[], None],
                 judged: Callable[[dict[str, str]], None]) -> None:
        self._node, self._settings, self._loaded, self._judged = node, settings, loaded, judged
        cell = load_cell(settings.cell)
        self._ledger = Ledger(state_file(node, settings.release_file, f'{cell.name}-releases.json'))
        decider, news = self._first(settings.model)
        self._logged, self._shown = '', False
        self._keeper = Keeper(decider, cell.rollback, self._ledger, news, cell.autonomy)
        _spare_the_collector()
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix='loader')
        self._loading: Future[Decider] | None = None
        # In the group of all others the service, which answers once the checkpoint is loaded, would keep them waiting.
        self._service = node.create_service(Trigger, '~/swap', self._on_swap,
                                            callback_group=MutuallyExclusiveCallbackGroup())
        self._inputs = [
            node.create_subscription(DiagnosticArray, interface.DIAGNOSTICS, self._on_diagnostics, interface.EVENT_QOS),
            node.create_subscription(DiagnosticArray, interface.OUTCOME, self._on_outcome, interface.EVENT_QOS)]

    def close(self) -> None:
        """Let everything go; what is being loaded is not waited for."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._node.destroy_service(self._service)
        for subscription in self._inputs:
            self._node.destroy_subscription(subscription)

    # --- what the agent asks and tells --------------------------------------------------------------------------

    @property
    def deciding(self) -> Decider:
        """The checkpoint that decides."""
        return self._keeper.deciding

    @property
    def may_decide(self) -> bool:
        """Whether it may go on."""
        return self._keeper.may_decide

    def take(self) -> bool:
        """Let the checkpoint that waits take over, if it may; to be called while nothing is decided or moves.

        Returns:
            Whether another one decides now.
        """
        taken = self._keeper.take() is not None
        if taken:
            self._tell()
        return taken

    def begin(self) -> None:
        """A decision is under way."""
        self._keeper.deciding_begins()

    def decided(self, decided: Decided) -> None:
        """A decision was made and is published."""
        self._keeper.decided(decided.origin.image_stamp_ns, decided.latency_ms, decided.refusal,
                             proposed=decided.trajectory is not None)
        self._follow()

    def new_task(self) -> None:
        """Whatever was under way has ended with a new instruction."""
        self._keeper.new_task(self._node.get_clock().now().nanoseconds)
        self._follow()

    def show(self) -> None:
        """Say on ``/diagnostics`` which checkpoint decides, from now on."""
        self._shown = True
        self._tell()

    def hide(self) -> None:
        """Say nothing more there."""
        self._shown = False
        self._node.board.forget(self._keeper.status().about)

    def _tell(self) -> None:
        status = self._keeper.status()
        if status.level != OK and status.message != self._logged:
            self._node.get_logger().error(status.message)
        self._logged = status.message
        if self._shown:
            self._node.board.tell(status)

    # --- what gate and line say ---------------------------------------------------------------------------------

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith(_VERDICT) and is_of_this_cell(self._node, status.name):
                values = {value.key: unescape(value.value) for value in status.values}
                self._keeper.verdict(values)
                self._judged(values)
                self._follow()

    def _on_outcome(self, message: DiagnosticArray) -> None:
        try:
            outcome = outcome_from(message, self._node.resolve_topic_name(interface.OUTCOME))
        except UserError as error:
            self._node.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        if outcome.terminated or outcome.truncated:
            self._keeper.episode_ended(outcome.success, to_ns(message.header.stamp))
            self._follow()

    # --- loading ------------------------------------------------------------------------------------------------

    async def _on_swap(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        model = str(self._node.get_parameter('next_model').value)
        response.success = False
        if not model:
            response.message = 'the parameter next_model is empty: set it to a checkpoint first'
        elif self._loading is not None:
            response.message = 'a checkpoint is being loaded: try again when it decides'
        else:
            readmit = str(self._node.get_parameter('readmit').value)
            loading = self._load_beside(self._load, model, readmit)
            while not loading.done():
                await _NextTurn()
            response.success, response.message = self._finish(loading, readmit)
        return response

    def _follow(self) -> None:
        """Show what is known now, and go back where that is called for."""
        back = self._keeper.way_back
        if back is not None and self._loading is None:
            loading = self._load_beside(self._load_back, back)
            self._node.executor.create_task(self._go_back, loading)
        self._tell()

    async def _go_back(self, loading: Future[Decider]) -> None:
        while not loading.done():
            await _NextTurn()
        done, message = self._finish(loading)
        if not done:
            self._keeper.stays(message)
            self._tell()

    def _load_beside(self, load: Callable[..., Decider], *arguments: object) -> Future[Decider]:
        """Load in the other thread, while the checkpoint that decides goes on."""
        executor = self._node.executor
        self._loading = self._loader.submit(load, *arguments)
        self._loading.add_done_callback(lambda _: executor.wake())
        return self._loading

    def _finish(self, loading: Future[Decider], readmit: str = '') -> tuple[bool, str]:
        """Have what was loaded take over as soon as it may; whether it was loaded, and a sentence."""
        self._loading = None
        try:
            decider = loading.result()
            self._ledger.admit(decider.release, readmit)  # a copy may have been rolled back while it was loaded
            self._keeper.stage(decider)
        except UserError as error:
            return False, str(error)
        except Exception as error:  # a library underneath raises what it likes, and the agent goes on as before
            return False, f'the checkpoint cannot be loaded ({type(error).__name__}: {error}): choose another'
        _spare_the_collector()
        self._loaded()
        message = self._keeper.status().message
        self._tell()
        return True, message

    def _first(self, model: str) -> tuple[Decider, str]:
        """What decides at start: not what was rolled back before, if there is a good one."""
        try:
            decider = self._load(model, self._settings.readmit)
            self._ledger.admit(decider.release, self._settings.readmit)
            return decider, ''
        except RolledBack as error:
            good = self._ledger.good
            if good is None:
                raise
            try:
                return self._load_back(good), f'{good.model} decides, because {error}'
            except UserError as why:
                raise UserError(f'{error}; nor is there one to go back to: {why}') from why

    def _load(self, model: str, readmit: str) -> Decider:
        return Decider(replace(self._settings, model=model), partial(self._ledger.refuse, readmitted=readmit))

    def _load_back(self, good: Release) -> Decider:
        def admit(release: Release) -> None:
            if not release.is_known_as(good.digest):
                raise UserError(f'{good.model} is no longer what it was when it was good: swap in another')
        return Decider(replace(self._settings, model=good.model), admit)


class _NextTurn:
    """Gives the executor back until something happens."""

    def __await__(self) -> Generator[None, None, None]:
        yield


def _spare_the_collector() -> None:
    """What was loaded is freed by its last user. Looking through all of it takes seconds, without a heartbeat."""
    gc.freeze()
