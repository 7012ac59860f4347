"""`lepton devices`."""

import argparse

from lepton.sw.commands import Subparsers


def command(args: argparse.Namespace) -> int:
    """List the serial ports."""
    from lepton.sw.device.serial_port import ports

    found = ports()
    for name, description in found:
        print(f"{name}  {description}".rstrip())
    if not found:
        print("no serial ports")
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "list the serial ports, for --backend serial:PORT"
    commands.add_parser("devices", help=text, description=text).set_defaults(handler=command)
