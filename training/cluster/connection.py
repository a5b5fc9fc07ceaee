"""The Ray cluster of a run: found, or started on this machine and ended with the run."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_agent_ros.errors import UserError
from vlm_agent_ros.interrupt import deferred_signals
from vlm_agent_ros.nodes.process import with_sources
from vlm_agent_ros.policy.policy import Policy

from ..config import TrainConfig

_MIB = 2**20
_LOCAL_STORE = 256 * _MIB
_VERSIONS = 2  # of the weights are in the object store while workers change to the newer one
_PATIENCE_S = 5.0
_POLL_S = 0.2
_HTTP2_PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes(3) + b'\x04' + bytes(5)  # and empty SETTINGS (RFC 9113)


@contextmanager
def connected(config: TrainConfig, policy: Policy) -> Iterator[Any]:
    """The module ``ray``, connected to the cluster of a run.

    One to which this process is connected already is used as it is.

    Raises:
        UserError: Ray is not installed, there is no such cluster, or it lacks processors or room for the weights.
    """
    size = trained_bytes(policy)
    local = config.ray in ('', 'local')
    ray = _import_ray(local)
    if ray.is_initialized():
        _check(ray, config, size)
        yield ray
        return
    folder = Path(tempfile.mkdtemp(prefix='vlm_agent_ray_')) if local else None
    try:
        # Ray takes SIGTERM for itself; when the block is done the handlers are what they were.
        with deferred_signals():
            if folder is None:
                _join(ray, config.ray)
            else:
                _start(ray, config, size, folder)
        _check(ray, config, size)
        yield ray
    finally:
        with deferred_signals():
            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def result_of(ray: Any, reference: Any, timeout: float = float('inf')) -> Any:
    """What a reference stands for, once it is there.

    A signal that ends the program is held back while Ray's compiled code runs, which would make a SystemError of it.

    Raises:
        TimeoutError: It was not there in so many seconds.
        ray.exceptions.RayError: It never will be.
    """
    deadline = time.monotonic() + timeout
    while True:
        with deferred_signals():
            ready, _ = ray.wait([reference], timeout=_POLL_S)
            if ready:
                return ray.get(reference)
        if time.monotonic() > deadline:
            raise TimeoutError


def trained_bytes(policy: Policy) -> int:
    """Bytes of one version of the trained tensors."""
    return sum(tensor.numel() * tensor.element_size()
               for state in (policy.adapter_state(), policy.value_state()) for tensor in state.values())


def check_room(size: int, stores: Mapping[str, float]) -> None:
    """Refuse weights that do not fit into an object store.

    Args:
        size: Bytes of one version.
        stores: Bytes of the object store of each node, by its address.

    Raises:
        UserError: Naming the smallest.
    """
    node = min(stores, key=lambda name: stores[name])
    needed = _VERSIONS * size
    if needed > stores[node]:
        raise UserError(f'the trained weights take {size / _MIB:.0f} MiB, {_VERSIONS} versions of them '
                        f'{needed / _MIB:.0f} MiB, but the object store of node {node} holds '
                        f'{stores[node] / _MIB:.0f} MiB: start its Ray with --object-store-memory '
                        f'{2 * needed} or more, or lower lora.rank in the models file')


def check_resources(config: TrainConfig, resources: Mapping[str, float]) -> None:
    """Refuse more workers than a cluster has processors or GPUs for.

    Raises:
        UserError: Naming what is short.
    """
    for name, each in (('CPU', 1.0), ('GPU', config.worker_gpus)):
        if config.workers * each > resources.get(name, 0.0):
            remedy = 'set worker_gpus' if name == 'GPU' else 'set workers'
            raise UserError(f'{config.workers} workers need {config.workers * each:g} {name}s, but the Ray cluster has '
                            f'{resources.get(name, 0.0):g}: {remedy} lower, or add nodes')


def _import_ray(local: bool) -> Any:
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '1')  # a worker without GPU sees none; and no warning
    if local:
        # Nothing but this machine is to reach it: without this Ray takes 127.0.0.1 for the address of the network.
        os.environ.setdefault('RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER', '0')
        os.environ.setdefault('RAY_worker_niceness', '0')  # 15 by default: beside other work they would starve
    try:
        with deferred_signals():
            import ray
    except ImportError as error:
        if (error.name or '').partition('.')[0] != 'ray':
            raise
        raise UserError(f'workers need Ray, which is not installed ({error}): pip install vlm_agent_ros[cluster], or '
                        'set workers to 0') from error
    return ray


def _start(ray: Any, config: TrainConfig, size: int, folder: Path) -> None:
    """A cluster of this machine alone."""
    before = os.environ.get('PYTHONPATH')
    # Its workers have to import these sources, not others that are installed.
    os.environ['PYTHONPATH'] = with_sources(os.environ)['PYTHONPATH']
    try:
        ray.init(address='local', num_cpus=config.workers, _node_ip_address='127.0.0.1', include_dashboard=False,
                 object_store_memory=max(_LOCAL_STORE, 3 * _VERSIONS * size), log_to_driver=False,
                 logging_level='error', _temp_dir=str(folder))
    except Exception as error:
        raise UserError(f'Ray cannot be started here ({_first_line(error)}): set ray to the address of a cluster, or '
                        'workers to 0') from error
    finally:
        if before is None:
            del os.environ['PYTHONPATH']
        else:
            os.environ['PYTHONPATH'] = before


def _join(ray: Any, address: str) -> None:
    """A running cluster; Ray itself would try for a minute, and then end the process."""
    if address != 'auto':
        _require_answer(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level='error')
    except Exception as error:  # of many kinds, by way of connecting
        raise UserError(f'there is no Ray cluster to use at {address} ({_first_line(error)}): start one with `ray '
                        'start --head`, correct ray, or set it to local') from error


def _require_answer(address: str) -> None:
    """Refuse an address at which nothing answers as Ray's servers do.

    Raises:
        UserError: It is no address, nobody listens there, or something else does.
    """
    host, separator, port = address.removeprefix('ray://').rpartition(':')
    if not separator or not host or not port.isdecimal():
        raise UserError(f'ray is {address!r}, but must be auto, local, host:port or ray://host:port')
    try:
        with socket.create_connection((host.strip('[]'), int(port)), timeout=_PATIENCE_S) as connection:
            if os.environ.get('RAY_USE_TLS', '0') == '0':
                connection.sendall(_HTTP2_PREFACE)
                if connection.recv(9)[3:4] != b'\x04':  # SETTINGS comes first from every server of HTTP/2
                    raise OSError('what listens there is not Ray')
    except (OSError, OverflowError) as error:
        raise UserError(f'there is no Ray cluster at {address} ({error}): start one with `ray start --head`, correct '
                        'ray, or set it to local') from error


def _check(ray: Any, config: TrainConfig, size: int) -> None:
    check_resources(config, ray.cluster_resources())
    check_room(size, {node['NodeManagerAddress']: node['Resources'].get('object_store_memory', 0.0)
                      for node in ray.nodes() if node['Alive']})


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip('.')
