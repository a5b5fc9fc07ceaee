"""A checkpoint as it goes to a cell: whole or as an adapter, in the type that the computer there holds, and signed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..actions import SkillLanguage
from ..bundle import Bundle, write_bundle
from ..cell import Cell
from ..checkpoint import KIND, find_policy, identity, load_policy, save_checkpoint, versions, weights_digest
from ..errors import UserError
from ..policy.policy import Policy
from . import INT8
from .keys import sign


def export_checkpoint(path: Path, name: str, cell: Cell, key: Ed25519PrivateKey, *, merge: bool = True,
                      dtype: str = '', measured: dict[str, Any] | None = None) -> None:
    """Write a signed bundle at once or not at all.

    Args:
        path: Its directory.
        name: Checkpoint, model directory or models file.
        cell: Where it is to decide: it must have been trained with this camera and grid.
        key: Who vouches for it.
        merge: Fold the adapters into the base model, which becomes part of the bundle; otherwise the cell needs the
            base model.
        dtype: One of ``release.DTYPES``, for a merged one; empty for the type that it has.
        measured: JSON for the manifest: what this form of it costs.

    Raises:
        UserError: The checkpoint does not fit the cell or cannot be had in this form, or the place cannot be written
            to.
    """
    found = find_policy(name)
    known: dict[str, Any] = found.fields if isinstance(found, Bundle) else {}
    policy = load_policy(name, language=SkillLanguage(cell.grid), camera=cell.camera, device='cpu')
    dtype = dtype or known.get('dtype') or policy.config.dtype
    _check_form(name, policy, known, merge, dtype)
    extra = {'cell': cell.name, 'merged': merge, 'dtype': dtype, 'measured': measured,
             'source': {'name': name, 'weights_sha256': weights_digest(name)}}
    step, metrics = known.get('step', 0), known.get('metrics', {})

    def signed(manifest: bytes) -> str:
        return sign(manifest, key)

    if not merge:
        save_checkpoint(path, policy, step=step, metrics=metrics, camera=cell.camera, extra=extra, sign=signed)
        return
    origin = identity(policy.config, policy.language)
    origin |= {name: known[name] for name in origin.keys() & known.keys()}  # of a merged one: what that was made from
    fields = {**origin, 'step': step, 'metrics': metrics, 'camera': dataclasses.asdict(cell.camera),
              'versions': versions(), **extra}
    config = dataclasses.replace(policy.config, base='.', lora=None,
                                 dtype='float32' if dtype == INT8 else dtype)
    model = _merged_model(policy, dtype)

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        policy.processor.save_pretrained(folder)

    write_bundle(path, KIND, fields, tensors={'value_head': policy.value_state()},
                 documents={'model': dataclasses.asdict(config)}, fill=fill, sign=signed)


def _check_form(name: str, policy: Policy, known: dict[str, Any], merge: bool, dtype: str) -> None:
    """Refuse a form that there is not."""
    if not merge and (known.get('merged') or dtype != policy.config.dtype):
        what = 'is merged already' if known.get('merged') else f'has an adapter to {policy.config.dtype} weights'
        raise UserError(f'{name} {what}: leave out --adapter')
    if merge and policy.config.quantization != 'none':
        raise UserError(f'{name} was trained on a base in {policy.config.quantization}, into which adapters cannot be '
                        'folded: export it with --adapter')
    if known.get('dtype') == INT8:
        raise UserError(f'{name} is in 8 bits already, from which nothing can be made: export the checkpoint that it '
                        'came from')


def _merged_model(policy: Policy, dtype: str) -> Any:
    """The model with its adapters folded in, in a type; the policy is used up."""
    model = policy.model if policy.config.lora is None else policy.model.merge_and_unload()
    if dtype == INT8:
        from ..policy.int8 import quantize

        quantize(model.float())
        return model
    return model.to(getattr(torch, dtype))
