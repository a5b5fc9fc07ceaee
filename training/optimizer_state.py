"""The state of a PyTorch optimiser as named tensors and JSON, exact to the bit and without a pickle."""

from __future__ import annotations

from typing import Any

import torch

from vlm_agent_ros.errors import UserError


def split_state(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Take ``Optimizer.state_dict()`` apart.

    Returns:
        Tensors named ``<parameter>.<quantity>``, e.g. ``3.exp_avg``; and what else there is, as JSON can hold it.
    """
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    for parameter, quantities in state['state'].items():
        for quantity, value in quantities.items():
            if isinstance(value, torch.Tensor):
                tensors[f'{parameter}.{quantity}'] = value
            else:
                scalars[f'{parameter}.{quantity}'] = value
    return tensors, {'scalars': scalars, 'param_groups': state['param_groups']}


def join_state(tensors: dict[str, torch.Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    """The inverse of ``split_state``, for ``Optimizer.load_state_dict``."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **rest['scalars']}.items():
        parameter, quantity = name.split('.', 1)
        state.setdefault(int(parameter), {})[quantity] = value
    groups = [{key: tuple(value) if key == 'betas' else value for key, value in group.items()}
              for group in rest['param_groups']]
    return {'state': state, 'param_groups': groups}


def restore(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], rest: dict[str, Any],
            source: str) -> None:
    """Load a state that was split, after checking that it belongs to parameters of these shapes.

    Raises:
        UserError: It is the state of another model or another optimiser.
    """
    parameters = [p for group in optimizer.param_groups for p in group['params']]
    state = join_state(tensors, rest)
    sizes = [len(group['params']) for group in state['param_groups']]
    fits = sizes == [len(group['params']) for group in optimizer.param_groups] and all(
        0 <= index < len(parameters) and all(
            value.shape in (parameters[index].shape, torch.Size()) for value in quantities.values()
            if isinstance(value, torch.Tensor))
        for index, quantities in state['state'].items())
    if not fits:
        raise UserError(f'the optimiser state in {source} belongs to a model of other parameters: continue with the '
                        'configuration that it was made with')
    optimizer.load_state_dict(state)
