"""Where every random number of a run comes from: a keyed hash, so that no draw depends on timing or order.

Four streams of episode seeds never meet: held-out evaluation from ``EVALUATION_START``, pilots, held out as well, from
``PILOT_START``, demonstrations for SFT from ``DEMONSTRATION_START``, and training from ``TRAINING_START``. The first is
that of ``evaluate``, ``compare``, ``ablate`` and ``cell-check``, whose figures are of the same episodes.
"""

from __future__ import annotations

import hashlib
import struct

EVALUATION_START = 500_000_000
PILOT_START = 750_000_000
DEMONSTRATION_START = 1_000_000_000
TRAINING_START = 2_000_000_000
TRAINING_STOP = 2**32


def keyed_seed(purpose: str, *key: int) -> int:
    """A 63-bit seed that is a function of its key only.

    Args:
        purpose: What is drawn, so that equal keys of different purposes are independent.
        key: Signed 64-bit integers, e.g. run seed, world, episode, turn.
    """
    digest = hashlib.blake2b(purpose.encode() + b'\0' + struct.pack(f'<{len(key)}q', *key), digest_size=8).digest()
    return int.from_bytes(digest, 'little') >> 1


def training_seed(run_seed: int, group: int, episode: int) -> int:
    """Seed of an episode of the training stream; worlds of one group share it."""
    return TRAINING_START + keyed_seed('episode', run_seed, group, episode) % (TRAINING_STOP - TRAINING_START)


def evaluation_seeds(count: int) -> list[int]:
    """The first ``count`` held-out seeds; the same for every run, so that results compare."""
    return list(range(EVALUATION_START, EVALUATION_START + count))


def pilot_seed(number: int) -> int:
    """Seed of an episode of the pilot stream, from 0; never one that a checkpoint may have been chosen by."""
    return PILOT_START + number % (DEMONSTRATION_START - PILOT_START)
