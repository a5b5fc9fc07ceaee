"""``vlm-agent keygen``: the key that signs checkpoints, and the one by which a cell knows them."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlm_agent_ros.release.keys import make_keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument('--out', type=Path, required=True, metavar='NAME',
                        help='writes NAME.pem, to be kept secret, and NAME.pub.pem, for the cell')


def run(args: argparse.Namespace) -> None:
    """Make the pair.

    Raises:
        UserError: A file is there already, or the folder cannot be written to.
    """
    private, public = make_keys(args.out)
    print(f'{private} signs: keep it secret, and off the cell\n'
          f'{public} is for the cell: name it in trust.keys of the cell file')
