"""A GPU that is too small, told as the setting to change."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from vlm_agent_ros.errors import UserError

Result = TypeVar('Result')

_EXHAUSTED = ('allocate memory', 'out of memory', 'ALLOC_FAILED')


def with_memory_advice(work: Callable[[], Result], doing: str, remedy: str) -> Result:
    """Do something, and turn what PyTorch raises when memory runs out into a sentence.

    No context manager: within one, the exception and all activations that it holds would outlive its ``except``.

    Args:
        work: What is done.
        doing: What the memory is for, after "ran out of memory".
        remedy: The settings that need less, as an instruction.

    Raises:
        UserError: Memory ran out.
    """
    try:
        return work()
    except torch.OutOfMemoryError as error:
        reason = str(error).partition('. ')[0].strip() or 'no more can be allocated'
    except RuntimeError as error:
        # Of the CPU, which has no exception of its own; of TorchScript, which throws another; of the libraries of CUDA.
        said = next((line for line in str(error).splitlines() if any(words in line for words in _EXHAUSTED)), '')
        if not said:
            raise
        reason = said.partition('. ')[0].strip()
    # Here the failed pass and its activations are gone, with the exception that held them: there is room to save.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise UserError(f'PyTorch ran out of memory {doing} ({reason}): {remedy}')
