"""`lepton compile`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lepton.sw.commands import Subparsers, add_config
from lepton.sw.errors import UserError
from lepton.sw.files import atomic, check_model, check_output, load_config, same_file

if TYPE_CHECKING:
    from lepton.sw.compiler import Program


def command(args: argparse.Namespace) -> int:
    """Write the program file of a model, or its C."""
    if args.c is None and args.output is None:
        raise UserError("nothing to write: give --output FILE for a program file, or --c DIR for C")
    if args.output is not None:
        check_output(args.output)
    check_model(args.model)
    if args.output is not None and same_file(args.model, args.output):
        raise UserError(f"--output {args.output}: would be written over {args.model}; give another name")
    config = load_config(args.config)
    from lepton.sw.compiler import compile_model
    from lepton.sw.graph.reader import load_model

    program = compile_model(load_model(args.model), config)
    if args.c is not None:
        write_c(program, Path(args.c))
    if args.output is not None:
        write_program(program, args, config.name)
    return 0


def write_program(program: "Program", args: argparse.Namespace, config: str) -> None:
    from lepton.sw.program_file import dump_program

    data = dump_program(program, Path(args.model).read_bytes())
    with atomic(args.output) as temporary:
        temporary.write_bytes(data)
    print(f"{args.output}: {args.model} for {config}")


def write_c(program: "Program", folder: Path) -> None:
    """The files, and how large what they make is."""
    from lepton.sw.csource import c_files
    from lepton.sw.deploy import deploy

    ready = deploy(program)
    contents = c_files(ready)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            with atomic(folder / name) as temporary:
                temporary.write_text(text)
    except OSError as error:
        raise UserError(f"--c {folder}: {error.strerror}; give a folder that can be written") from None
    print(f"{folder}: {', '.join(contents)}; image {len(ready.image):,} bytes, arena {ready.arena_bytes:,}")


def add_parser(commands: Subparsers) -> None:
    text = "compile a model to a file that runs in its place"
    parser = commands.add_parser("compile", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help="int8 .tflite")
    parser.add_argument("-o", "--output", metavar="FILE", help="file to write")
    parser.add_argument(
        "--c", metavar="DIR", help="write C into this folder: image, driver, an example (docs/integration.md)"
    )
    add_config(parser)
    parser.set_defaults(handler=command)
