"""`lepton compile`."""

import argparse
from pathlib import Path

from lepton.sw.commands import Subparsers, add_config
from lepton.sw.errors import UserError
from lepton.sw.files import atomic, check_model, check_output, load_config, same_file


def command(args: argparse.Namespace) -> int:
    """Write the program file of a model."""
    check_output(args.output)
    check_model(args.model)
    if same_file(args.model, args.output):
        raise UserError(f"--output {args.output}: would be written over {args.model}; give another name")
    config = load_config(args.config)
    from lepton.sw.compiler import compile_model
    from lepton.sw.graph.reader import load_model
    from lepton.sw.program_file import dump_program

    program = compile_model(load_model(args.model), config)
    data = dump_program(program, Path(args.model).read_bytes())
    with atomic(args.output) as temporary:
        temporary.write_bytes(data)
    print(f"{args.output}: {args.model} for {config.name}")
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "compile a model to a file that runs in its place"
    parser = commands.add_parser("compile", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help="int8 .tflite")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write")
    add_config(parser)
    parser.set_defaults(handler=command)
