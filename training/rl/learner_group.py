"""A learner of several processes, usually one per GPU: each reads its share of every minibatch, gradients are added.

``accelerate launch --num_processes N -m training train …`` starts them. The first process is the run: it plays, or has
workers play, writes files and talks to the user. The others hold a copy of policy and optimiser, and wait for updates.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

# Before there is a group: its functions keep the group of the moment as the default of an argument, and with it the
# group's threads. One that still owns a tensor of Python's when the interpreter ends, ends it in SIGABRT (pytorch
# #179291).
import torch.distributed.nn.functional
from torch import distributed

from vlm_agent_ros.errors import UserError

_TIMEOUT = timedelta(days=2)  # the others wait while the first one plays and evaluates


class LearnerGroup:
    """The processes of one learner, as one of them sees it.

    Attributes:
        rank: Its number, 0 for the first.
        size: How many there are.
        device: Where tensors have to be that are sent.
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device

    def share(self, starts: Sequence[int]) -> Sequence[int]:
        """Which of a minibatch's forward passes this process makes."""
        return starts[self.rank::self.size]

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give every process the sums of all processes' tensors, in place.

        Raises:
            UserError: Another process has ended.
        """
        for kind in dict.fromkeys(tensor.dtype for tensor in tensors):  # in one order in every process
            same = [tensor for tensor in tensors if tensor.dtype == kind]
            flat = torch.cat([tensor.reshape(-1).to(self.device) for tensor in same])
            with _told():
                distributed.all_reduce(flat)
            for tensor, total in zip(same, flat.split([tensor.numel() for tensor in same])):
                tensor.copy_(total.view_as(tensor))

    def tell(self, message: Any) -> None:
        """Send an object from the first process to all others.

        Raises:
            UserError: One of them has ended.
        """
        with _told():
            distributed.broadcast_object_list([message], src=0, device=self.device)

    def hear(self) -> Any:
        """What the first process tells; None where it has ended."""
        heard: list[Any] = [None]
        try:
            with _told():
                distributed.broadcast_object_list(heard, src=0, device=self.device)
        except UserError:
            return None
        return heard[0]

    def gather(self, message: Any) -> list[Any]:
        """What every process sends, by rank.

        Raises:
            UserError: One of them has ended.
        """
        found: list[Any] = [None] * self.size
        with _told():
            distributed.all_gather_object(found, message)
        return found


@contextmanager
def learner_group() -> Iterator[LearnerGroup | None]:
    """The group that this process was started in; None for a process alone.

    Raises:
        UserError: accelerate is not installed.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) < 2:
        yield None
        return
    try:
        from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise UserError('a learner of several processes needs accelerate: pip install accelerate') from error
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_TIMEOUT)
    group = LearnerGroup(state.process_index, state.num_processes, state.device)
    yield group
    if group.rank == 0:
        group.tell(None)
    state.destroy_process_group()


def packed(state: Any) -> bytes:
    """Tensors and numbers for processes with other devices."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpacked(content: bytes) -> Any:
    """What ``packed`` was given, on the CPU."""
    return torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of which those of torch.distributed are
        raise UserError('another process of the learner has ended: what it printed says why') from error
