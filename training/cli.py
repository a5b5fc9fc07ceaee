"""``vlm-agent``: from demonstrations to a checkpoint in a robot cell, by its commands. Also ``python -m training``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import signal
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vlm_agent_ros.config import key_of
from vlm_agent_ros.errors import UserError, import_failure
from vlm_agent_ros.interrupt import Interrupt

from .config import EnvironmentConfig, TrainConfig

# Modules with add_arguments(parser) and run(args); imported only when their command is asked for, since they bring
# PyTorch or the simulator with them.
_COMMANDS = {
    'train': ('training.rl.train', 'improve a model by reinforcement learning in simulated worlds'),
    'evaluate': ('training.evaluation.evaluate_command', 'success of a model or checkpoint on held-out episodes'),
    'compare': ('training.evaluation.compare_command', 'which of several models is better, on the same episodes'),
    'ablate': ('training.evaluation.ablate', 'train and evaluate a declared grid of settings, each with several seeds'),
    'sft': ('training.sft.sft_command', 'make a model from demonstrations'),
    'pilot': ('training.pilot.pilot_command', 'two checkpoints on one line by a plan made beforehand'),
    'record': ('training.demonstrations.record', 'record demonstrations of an expert'),
    'keygen': ('training.release.keygen_command', 'make the pair of keys by which a cell knows whom to trust'),
    'export': ('training.release.export_command', 'make a signed bundle of a checkpoint, for a cell'),
    'replay': ('training.audit.replay_command', 'repeat the decisions of an audit log and tell which differ'),
    'incident': ('training.audit.incident_command', 'one page of what an audit log says around a time'),
    'cell-check': ('training.cell_check.command', 'check the robot side, process by process, against an emulated cell'),
    'bench': ('training.bench.command', 'measure how fast each part is, against the usual way and against its limit'),
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as every other error of the command line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register('type', Path, _path)

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}: see {self.prog} --help')


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: that of the command, 0 for most; 2 for bad input (told in one sentence on stderr), 130 after
        an interrupt.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A terminal, launch and a service manager end a process by different signals, and a shell starts background jobs
    # with SIGINT ignored: any of them shall leave a checkpoint.
    interrupt = Interrupt()
    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        args = parse_arguments(arguments)
        status = importlib.import_module(_COMMANDS[args.command][0]).run(args)
    except KeyboardInterrupt as error:
        print(f'vlm-agent: {str(error) or "stopped by a signal"}', file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has gone
        sys.stderr.close()
        return 1
    except Exception as error:
        failure = import_failure(error) if isinstance(error, ImportError) else error
        if isinstance(error, PermissionError) and error.filename:
            failure = UserError(f'{error.filename} may not be used ({error.strerror}): check the permissions of it and '
                                'its folder, or choose another')
        if isinstance(failure, UserError):  # also where the checkpoint of an interrupt cannot be written
            print(f'vlm-agent: {failure}', file=sys.stderr)
            return 2
        if not interrupt.received:
            raise
        print('vlm-agent: stopped by a signal', file=sys.stderr)
        return 130
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return int(status or 0)


def trainer() -> int:
    """``ros2 run vlm_agent_ros trainer``: ``vlm-agent train`` without the arguments that are meant for ROS."""
    return main(['train', *without_ros_arguments(sys.argv[1:])])


def without_ros_arguments(arguments: Sequence[str]) -> list[str]:
    """Arguments outside ``--ros-args … [--]``."""
    kept, ours = [], True
    for argument in arguments:
        if argument == '--ros-args':
            ours = False
        elif argument == '--' and not ours:
            ours = True
        elif ours:
            kept.append(argument)
    return kept


def add_config_flags(parser: argparse.ArgumentParser, cls: type[EnvironmentConfig] = TrainConfig) -> None:
    """A ``--kebab-case`` flag per field; what is not given leaves no attribute, so that the YAML file decides."""
    hints = typing.get_type_hints(cls)
    unless = ', unless the training file says otherwise' if cls is TrainConfig else ''
    for field in dataclasses.fields(cls):
        key = key_of(field)
        flag = '--' + key.replace('_', '-')
        help_text = f'{field.metadata["help"]} (default: {_shown(field.default)}{unless})'.replace('%', '%%')
        options: dict[str, Any] = {'dest': key, 'default': argparse.SUPPRESS, 'help': help_text}
        if hints[field.name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif typing.get_origin(hints[field.name]) is tuple:
            parser.add_argument(flag, nargs='*', metavar='X', action=_Listed, **options)
        elif hints[field.name] is str:
            parser.add_argument(flag, metavar=_metavar(field), **options)
        else:
            parser.add_argument(flag, type=_number, metavar=_metavar(field), **options)


def config_overrides(args: argparse.Namespace, cls: type[EnvironmentConfig] = TrainConfig) -> dict[str, Any]:
    """The flags of ``add_config_flags`` that were given."""
    names = {key_of(field) for field in dataclasses.fields(cls)}
    return {key: value for key, value in vars(args).items() if key in names}


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line.

    Raises:
        UserError: The command or an option does not exist, or lacks its value.
    """
    return _parser(arguments).parse_args(arguments)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog='vlm-agent', description='Vision-language models that act in a robot cell.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    chosen = next((argument for argument in arguments if not argument.startswith('-')), '')
    for name, (module, text) in _COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + '.')
        if name == chosen:
            importlib.import_module(module).add_arguments(sub)
    return parser


class _Listed(argparse.Action):
    """Texts one after the other, or all of them as one JSON list, where one of them begins like an option."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        if len(values) == 1 and values[0].startswith('["'):
            try:
                values = [str(value) for value in json.loads(values[0])]
            except ValueError as error:
                parser.error(f'argument {option_string}: {values[0]!r} is no JSON list ({error})')
        setattr(namespace, self.dest, values)


def _path(text: str) -> Path:
    """A path, its ``~`` expanded: the shell leaves that of ``--out=~/x`` as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # nobody of that name has a home
        return Path(text)


def _number(text: str) -> Any:
    """The decimal number that it looks like, which YAML 1.1 does not read of ``010``; else the text, which the
    configuration refuses."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _metavar(field: dataclasses.Field[Any]) -> str:
    choices = field.metadata.get('choices')
    return '{' + ','.join(choices) + '}' if choices else {int: 'N', float: 'X'}.get(type(field.default), 'TEXT')


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ' '.join(map(str, value)) or 'none'
    return 'none' if value == '' else str(value)
