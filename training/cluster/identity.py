"""What has to be the same wherever a part of a run is computed: this package's sources, the libraries below, and the
files that the run was given."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from functools import cache
from pathlib import Path

from sim_worlds.world_file import world_digest
from vlm_agent_ros.checkpoint import identity as policy_identity
from vlm_agent_ros.policy.policy import Policy

from ..config import TrainConfig

_SOURCES = ('vlm_agent_ros', 'sim_worlds', 'training')
_LIBRARIES = ('torch', 'transformers', 'peft', 'numpy', 'llguidance', 'ray')


@cache
def identity() -> dict[str, str]:
    """Digest of the sources, and versions of what numbers depend on, by name."""
    found = {'sources': _digest(), 'python': '.'.join(platform.python_version_tuple()[:2])}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = 'missing'
    return found


def difference(here: dict[str, str], there: dict[str, str]) -> str:
    """What differs, in words; empty where nothing does."""
    parts = []
    for name in sorted(here.keys() | there.keys()):
        ours, theirs = here.get(name, 'missing'), there.get(name, 'missing')
        if ours != theirs:
            parts.append('the sources of vlm_agent_ros' if name == 'sources' else f'{name} {theirs} instead of {ours}')
    return ', '.join(parts)


def given(config: TrainConfig, policy: Policy) -> dict[str, str]:
    """Digests of what a run reads from files that are not part of this package, by what they are."""
    contract = policy_identity(policy.config, policy.language)
    found = {'base model': contract['base_sha256'], 'tokenizer or processor': contract['processor_sha256'],
             'prompt': contract['prompt_sha256'], 'chat template': contract['chat_template'],
             'list of actions': contract['language_sha256']}
    if config.env == 'cell':
        found['world file'] = world_digest(config.world)
    return {name: digest or '' for name, digest in found.items()}


def _digest() -> str:
    """SHA-256 over every Python file of the package and every file of its configuration that comes with it."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(path for top in _SOURCES for path in (root / top).rglob('*.py'))
    files += sorted((root / 'config').rglob('*.yaml'))
    sha = hashlib.sha256()
    for path in files:
        sha.update(str(path.relative_to(root)).encode() + b'\0' + path.read_bytes() + b'\0')
    return sha.hexdigest()
