"""Lifecycle nodes that start by themselves if they may, and that say on ``/diagnostics`` why they are not active."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.timer import Timer

from ..errors import UserError
from ..status import ERROR, OK, WARN, Status
from .status_board import StatusBoard

_STEADY = Clock(clock_type=ClockType.STEADY_TIME)
_RETRY_S = 0.2
_REPEAT_S = 1.0


class ManagedNode(LifecycleNode):
    """The transitions of a node; what they mean is in the hooks below, each of which may raise UserError.

    What is wrong leaves the node inactive with a sentence in the log and in the status ``state``. With ``autostart`` it
    configures itself once, and activates itself as soon as nothing is in the way, also where it had to be configured
    again by hand.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.board = StatusBoard(self)
        self.active = False
        self._why = ''
        self.create_timer(_REPEAT_S, self.board.repeat)
        self._watch = self.create_timer(_RETRY_S, self._keep_fit)
        self._starter = self.create_timer(0.0, self._autostart)
        self._starter.cancel()
        self._starts_itself = self._may_start_itself = False

    def create_timer(self, timer_period_sec: float, callback: Callable[[], Any], **options: Any) -> Timer:
        """By the steady clock: a node must not fall silent where its simulation stands still or is not there."""
        return super().create_timer(timer_period_sec, callback, clock=_STEADY, **options)

    # --- hooks --------------------------------------------------------------------------------------------------

    def setup(self) -> None:
        """Load what the node needs."""

    def check(self) -> None:
        """Raise UserError where something contradicts the configuration; called while inactive and while active."""

    def awaited(self) -> str:
        """What ``autostart`` waits for before it activates the node; empty for nothing."""
        return ''

    def start(self) -> None:
        """Begin to work."""

    def stop(self) -> None:
        """End all work, the safety action first."""

    def teardown(self) -> None:
        """Let everything go that ``setup`` made, as far as it came."""

    # --- transitions --------------------------------------------------------------------------------------------

    def autostart(self) -> None:
        """Configure and activate from the executor, without waiting for transitions from outside."""
        self._starter.reset()

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Load; a failure leaves the node unconfigured, and may be tried again."""
        try:
            self.setup()
        except Exception as error:  # rclpy would swallow it
            self.teardown()
            self._refuse(str(error) if isinstance(error, UserError) else
                         f'{self.get_name()} cannot be configured ({type(error).__name__}: {error})')
            return TransitionCallbackReturn.FAILURE
        self._settle()
        # Once: who takes a node down by hand takes it up by hand.
        self._starts_itself, self._may_start_itself = self._may_start_itself, False
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin, unless something contradicts the configuration."""
        try:
            self.check()
        except UserError as error:
            self._refuse(str(error))
            return TransitionCallbackReturn.FAILURE
        self.start()
        self.active = True
        self._settle()
        self.board.tell(Status('state', OK, 'active', {'state': 'active'}))
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End all work at once."""
        self._end()
        return super().on_deactivate(state)

    def on_cleanup(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Let everything go."""
        self._end()
        self.teardown()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As on_deactivate."""
        self._end()
        return super().on_shutdown(state)

    def _end(self) -> None:
        self._starts_itself = self._may_start_itself = False
        if self.active:
            self.active = False
            self.stop()
        self._settle()

    # --- by itself ----------------------------------------------------------------------------------------------

    def _autostart(self) -> None:
        self._starter.cancel()
        self._may_start_itself = True
        self.trigger_configure()

    def _keep_fit(self) -> None:
        """Deactivate what has become unfit, and activate what may start by itself."""
        if not self.active and not self._starts_itself:
            return
        try:
            self.check()
        except UserError as error:
            if self.active:
                starts_itself = self._starts_itself
                self.trigger_deactivate()
                self._starts_itself = starts_itself
            self._refuse(str(error))
            return
        awaited = '' if self.active else self.awaited()
        if awaited:
            self._show(WARN, awaited)
        elif not self.active:
            self.trigger_activate()

    def _refuse(self, why: str) -> None:
        if why != self._why:
            self.get_logger().error(why)
        self._show(ERROR, why)

    def _show(self, level: int, why: str) -> None:
        """Say why the node is not active, anew only where that has changed."""
        if why != self._why:
            self._why = why
            self.board.tell(Status('state', level, f'inactive: {why}', {'state': 'inactive', 'reason': why}))

    def _settle(self) -> None:
        self._why = ''
        self.board.forget('state')
