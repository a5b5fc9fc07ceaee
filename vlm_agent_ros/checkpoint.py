"""Checkpoints: what training added to a base model, bound to everything that it was trained with.

A checkpoint is a bundle (``bundle.py``) with the adapter in PEFT's own layout (``adapter_model.safetensors`` and
``adapter_config.json``; ``model.safetensors`` without LoRA), ``value_head.safetensors``, the models file's content in
``model.json`` and, for a resume, whatever the trainer adds. The manifest names the base model and holds the digests of
its weights, of its processor, of the prompt and of the action language: on loading each has to be the same.

A *merged* checkpoint (``release/export.py``) holds a whole Hugging Face model instead of the adapter, and needs no
base.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .actions import ActionLanguage, SkillLanguage
from .bundle import MANIFEST, Bundle, is_bundle, private_copy, read_bundle, sha256_of, write_bundle
from .camera import Camera
from .config import parse, resource_root
from .errors import UserError
from .policy.config import LoraSettings, ModelConfig, load_model_config, model_config_of_directory
from .policy.loading import select_device
from .policy.policy import Policy
from .policy.prompt import PromptTemplate
from .release import INT8
from .release.trust import TrustedKeys

KIND = 'checkpoint'
_WEIGHTS = ('config.json', '*.safetensors', '*.safetensors.index.json')
_PROCESSOR = ('tokenizer*', 'vocab*', 'merges.txt', 'special_tokens_map.json', 'added_tokens.json',
              '*processor_config.json', 'chat_template*')
_PLAIN = ('.json', '.safetensors', '.jinja', '.txt', '.model')  # what is read as data and never run
_BASE = ('base_sha256', 'processor_sha256', 'quantization', 'chat_template')
_PACKAGES = ('vlm_agent_ros', 'torch', 'transformers', 'peft', 'llguidance', 'tokenizers')


def load_policy(name: str | Bundle | ModelConfig, *, language: ActionLanguage | None = None,
                prompt: PromptTemplate | None = None, camera: Camera | None = None, trust: TrustedKeys | None = None,
                constrained: bool | None = None, cot: bool = True, device: str = 'auto', seed: int = 0) -> Policy:
    """A policy, ready to decide.

    Args:
        name: A shipped models file by name, or the path of a models file (YAML), of a checkpoint directory or of a
            Hugging Face model directory; or what ``find_policy`` gave for it.
        language: Action language; the skills on a 48 x 48 grid by default.
        prompt: Overrides the models file's ``prompt``; a checkpoint that was trained with another one is refused.
        camera: Where the policy is to be deployed: a checkpoint that was trained with another camera is refused. None
            takes any, as comparisons between cells do.
        trust: Whose signature a checkpoint must have where it is to be deployed; None asks for none.
        constrained: Overrides the models file's ``decoding.constrained``.
        cot: False lets it write no thoughts, whatever the models file says.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: Seed of adapters and value head that no checkpoint gives.

    Raises:
        UserError: It does not exist, is corrupt, is no vision-language model, was trained with something else, or is
            not signed by whom it should.
    """
    language = language or SkillLanguage()
    found = find_policy(name) if isinstance(name, str) else name
    if not isinstance(found, Bundle):
        if trust is not None:
            trust.refuse_unsigned(name if isinstance(name, str) else found.base)
        return Policy(_adjusted(found, prompt, constrained, cot), language, select_device(device), seed)
    if trust is not None:
        trust.signer(found)
    if camera is not None:
        _check_camera(found, camera)
    config = _adjusted(config_of(found), prompt, constrained, cot)
    _verify(found, config, language)
    with _held(found, config, language, signed=trust is not None and trust.required) as held:
        policy = Policy(held, language, select_device('cpu' if found.fields.get('dtype') == INT8 else device), seed)
    policy.config = config
    restore_policy(found, policy)
    return policy


@contextmanager
def _held(bundle: Bundle, config: ModelConfig, language: ActionLanguage, signed: bool) -> Iterator[ModelConfig]:
    """The content of a models file with a base that is what was verified, whoever writes to its folder meanwhile.

    Transformers reads a directory by itself: where signatures are asked for, that of a merged checkpoint, or of the
    base of an adapter, is read from a copy.
    """
    base = Path(config.base_path)
    if signed and bundle.fields.get('merged'):
        with bundle.copy() as folder:
            yield dataclasses.replace(config, base=str(folder))
    elif signed and base.is_dir():
        with private_copy(base, [file.name for file in base.iterdir() if file.is_file()]) as folder:
            held = dataclasses.replace(config, base=str(folder))
            _verify(bundle, held, language)
            yield held
    else:
        yield config


def find_policy(name: str) -> Bundle | ModelConfig:
    """What ``load_policy`` would load, found and verified; its weights are not loaded yet.

    Raises:
        UserError: It does not exist or is corrupt.
    """
    path = Path(name).expanduser()
    if is_checkpoint(path):
        return open_checkpoint(path)
    if path.is_dir():
        latest = path / 'checkpoints' / 'latest'
        if is_checkpoint(latest):
            raise UserError(f'{path} is the folder of a run: give a checkpoint of it, such as {latest}')
        if not (path / 'config.json').is_file():
            raise UserError(f'{path} holds neither a checkpoint nor a model (manifest.json or config.json): give the '
                            'directory of one')
        return model_config_of_directory(path)
    if len(path.parts) > 1 and path.suffix not in ('.yaml', '.yml'):
        raise UserError(f'{path} does not exist: give a checkpoint directory, a model directory, or a models file')
    return load_model_config(name)


def config_of(bundle: Bundle) -> ModelConfig:
    """The models file's content in a checkpoint; a merged one is its own base.

    Raises:
        UserError: It is damaged.
    """
    config = parse(ModelConfig, bundle.document('model'), f'{bundle.path / "model.json"}')
    return dataclasses.replace(config, base=str(bundle.path.resolve())) if bundle.fields.get('merged') else config


def weights_digest(policy: str | Bundle | ModelConfig) -> str:
    """SHA-256 (hex) over the weights that ``load_policy`` would load, and the type in which they are held.

    Args:
        policy: Its name, or what ``find_policy`` gives for it.

    Raises:
        UserError: It does not exist or is corrupt.
    """
    found = find_policy(policy) if isinstance(policy, str) else policy
    config = config_of(found) if isinstance(found, Bundle) else found
    merged = isinstance(found, Bundle) and bool(found.fields.get('merged'))
    parts = ['merged' if merged else str(_digest(config.base_path, _WEIGHTS)), config.dtype, config.quantization]
    if isinstance(found, Bundle):
        names = _WEIGHTS if merged else (f'{_adapter_name(config)}.safetensors', 'value_head.safetensors')
        parts += [f'{file} {digest}' for file, digest in sorted(found.files.items())
                  if any(Path(file).match(name) for name in names)]
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


def policy_digest(policy: str | Bundle | ModelConfig) -> str:
    """SHA-256 (hex) over all of a policy that decides how it acts, wherever it lies: its identity at a cell.

    Besides the weights these are the scale of the adapters, prompt, decoding, tokenizer and image processor.

    Args:
        policy: As of ``weights_digest``.

    Raises:
        UserError: It does not exist or is corrupt.
    """
    found = find_policy(policy) if isinstance(policy, str) else policy
    config = config_of(found) if isinstance(found, Bundle) else found
    settings = dataclasses.asdict(config)
    del settings['base']
    if isinstance(found, Bundle) and found.fields.get('merged'):
        processor: object = sorted((file, digest) for file, digest in found.files.items()
                                   if any(Path(file).match(name) for name in _PROCESSOR))
    else:
        processor = _digest(config.base_path, _PROCESSOR)
    return hashlib.sha256(json.dumps([weights_digest(found), processor, settings], sort_keys=True).encode()).hexdigest()


def is_checkpoint(path: Path) -> bool:
    """Whether a directory claims to be a checkpoint, whole or not."""
    return is_bundle(path, KIND) or (path / MANIFEST).exists()


def save_checkpoint(path: Path, policy: Policy, *, step: int, metrics: Mapping[str, Any] | None = None,
                    camera: Camera | None = None,
                    tensors: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
                    documents: Mapping[str, Any] | None = None, extra: Mapping[str, Any] | None = None,
                    sign: Callable[[bytes], str] | None = None) -> None:
    """Write a checkpoint at once or not at all.

    Args:
        path: Its directory.
        policy: Whose adapters and value head are kept.
        step: Finished updates.
        metrics: JSON; what is known of the policy's success.
        camera: The camera that it was trained with.
        tensors: Further named tensors by file name, e.g. the optimiser's.
        documents: Further JSON by file name.
        extra: Further JSON for the manifest.
        sign: As of ``write_bundle``.

    Raises:
        UserError: The disk is full or the place cannot be written to.
    """
    config = policy.config
    fields = {**identity(config, policy.language), 'step': step, 'metrics': metrics or {},
              'camera': dataclasses.asdict(camera) if camera else None, 'versions': versions(), **(extra or {})}
    own_tensors = {'value_head': policy.value_state(), _adapter_name(config): policy.adapter_state()}
    own_documents: dict[str, Any] = {'model': dataclasses.asdict(config)}
    if config.lora is not None:
        own_documents['adapter_config'] = policy.adapter_config()
    write_bundle(path, KIND, fields, tensors={**own_tensors, **(tensors or {})},
                 documents={**own_documents, **(documents or {})}, sign=sign)


def open_checkpoint(path: Path) -> Bundle:
    """A checkpoint with every file verified, for what a trainer added to it.

    Raises:
        UserError: It is missing, incomplete, corrupt, or no checkpoint.
    """
    bundle = read_bundle(path, KIND)
    for name in bundle.files:
        if Path(name).suffix not in _PLAIN:
            raise UserError(f'{bundle.path / name} is of a kind that could hold code: use a checkpoint that '
                            'vlm_agent_ros wrote')
    return bundle


def restore_policy(bundle: Bundle, policy: Policy) -> None:
    """Give a policy the weights of a checkpoint.

    Raises:
        UserError: The checkpoint belongs to another base model, processor, prompt, action language or LoRA setting.
    """
    _verify(bundle, policy.config, policy.language)
    merged, lora = bool(bundle.fields.get('merged')), config_of(bundle).lora
    # The same adapters with another alpha would load, and be another policy.
    if not merged and lora != policy.config.lora:
        raise UserError(f'checkpoint {bundle.path} cannot be used: it was trained with {_lora_words(lora)}, the models '
                        f'file says {_lora_words(policy.config.lora)}: make them equal')
    try:
        # A merged one has been loaded with its own weights already.
        adapter = None if merged else bundle.tensors(_adapter_name(policy.config))
        policy.load_state(adapter, bundle.tensors('value_head'))
    except (ValueError, RuntimeError, KeyError) as error:
        raise UserError(f'{bundle.path} does not fit the model ({error}): load it with the models file that it was '
                        'trained with') from error


def _verify(bundle: Bundle, config: ModelConfig, language: ActionLanguage) -> None:
    """Refuse a checkpoint of something else, naming what differs and both sides of it."""
    remedies = {
        'base_sha256': f'the weights in {config.base_path} are not those that it was trained on '
                       f'({bundle.fields.get("base")}): name that model, or restore them',
        'processor_sha256': f'tokenizer or processor in {config.base_path} have changed: restore them',
        'quantization': f'it was trained with quantization {bundle.fields.get("quantization") or "none"}, the models '
                        f'file says {config.quantization}: make them equal',
        'chat_template': 'the chat_template of the models file differs: use the one that it was trained with',
        'prompt_sha256': 'the prompt template differs: use the one that it was trained with',
        'language_sha256': f'it was trained for the actions "{bundle.fields.get("language")}", here they are '
                           f'"{language.description}": use the same list of actions, in a cell the same grid',
    }
    merged = bundle.fields.get('merged')
    # The base of a merged one is its own, which its checksums vouch for; the manifest says what it was made from.
    expected = _contract(config, language) if merged else identity(config, language)
    for key, remedy in remedies.items():
        if not (merged and key in _BASE) and bundle.fields.get(key) != expected[key]:
            raise UserError(f'checkpoint {bundle.path} cannot be used: {remedy}')


def _lora_words(lora: LoraSettings | None) -> str:
    return 'no LoRA' if lora is None else 'LoRA ' + ', '.join(f'{k} {v}' for k, v in dataclasses.asdict(lora).items())


def _check_camera(bundle: Bundle, camera: Camera) -> None:
    """Refuse a camera that sees the cell otherwise: what the policy says of the image would mean other places."""
    trained: dict[str, Any] = bundle.fields.get('camera') or {}
    here = json.loads(json.dumps(dataclasses.asdict(camera)))
    for key in trained.keys() & here.keys() - {'frame', 'rectified'}:
        if trained[key] != here[key]:
            raise UserError(f'checkpoint {bundle.path} was trained with camera.{key} {trained[key]}, but the cell file '
                            f'says {here[key]}: use the cell file that it was trained with, or train it in this cell')


def _adapter_name(config: ModelConfig) -> str:
    """File name of the trained tensors; PEFT's own for adapters."""
    return 'model' if config.lora is None else 'adapter_model'


def identity(config: ModelConfig, language: ActionLanguage) -> dict[str, str | None]:
    """What a checkpoint is bound to, by names and digests; None is what manifests from before the key have."""
    return {
        'base': config.base,
        'base_sha256': _digest(config.base_path, _WEIGHTS),
        'processor_sha256': _digest(config.base_path, _PROCESSOR),
        'quantization': config.quantization if config.quantization != 'none' else None,
        'chat_template': config.chat_template or None,
        **_contract(config, language),
    }


def _contract(config: ModelConfig, language: ActionLanguage) -> dict[str, str | None]:
    """The part of it that says what is asked and what may be answered."""
    return {'prompt_sha256': config.prompt.digest(), 'language': language.description,
            'language_sha256': language.digest()}


def _digest(base: str, patterns: tuple[str, ...]) -> str:
    """SHA-256 over the names and contents of a base model's files; a model of the hub is known by its commit."""
    folder = Path(base)
    if not folder.is_dir():
        if folder.is_absolute():
            raise UserError(f'the base model {base} is not there any more: restore it, or name it anew in the models '
                            'file')
        try:
            return _commit(base)
        except Exception as error:  # the hub's client raises what it likes
            reason = str(error).strip().split('\n')[0]
            raise UserError(f'the base model {base} is no directory below {Path.cwd()} or {resource_root()}, and the '
                            f'hub does not give it ({reason}): go to where it lies, name it anew in the models file, '
                            'or connect to the hub') from error
    found = {file for pattern in patterns for file in folder.glob(pattern)}
    if patterns == _WEIGHTS and not any(folder.glob('*.safetensors')):
        found.update(folder.glob('*.bin'))  # which are loaded only then
    files = sorted(found)
    written = [(file, file.stat()) for file in files]
    return _digest_of(tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in written))


@cache
def _digest_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """That of files as they were written at a time (ns), in a number of bytes."""
    return hashlib.sha256('\n'.join(f'{file.name} {sha256_of(file)}' for file, *_ in files).encode()).hexdigest()


@cache
def _commit(name: str) -> str:
    from transformers import AutoConfig

    return str(getattr(AutoConfig.from_pretrained(name), '_commit_hash', None))


def _adjusted(config: ModelConfig, prompt: PromptTemplate | None, constrained: bool | None, cot: bool) -> ModelConfig:
    """A models file's content with what its user wants otherwise."""
    decoding = config.decoding
    if constrained is not None:
        decoding = dataclasses.replace(decoding, constrained=constrained)
    if not cot:
        decoding = dataclasses.replace(decoding, max_thought_chars=0)
    return dataclasses.replace(config, decoding=decoding, prompt=prompt or config.prompt)


def versions() -> dict[str, str]:
    """Versions of what a checkpoint was made with."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'unknown'
