"""`lepton import`."""

import argparse

from lepton.sw.commands import Subparsers, add_config


def command(args: argparse.Namespace) -> int:
    """Import a network as an int8 .tflite."""
    from lepton.sw.frontends.importer import command as run

    return run(args)


def add_parser(commands: Subparsers) -> None:
    text = "import a network from ONNX, PyTorch, Keras or float TensorFlow Lite as an int8 .tflite"
    parser = commands.add_parser("import", help=text, description=text)
    parser.add_argument(
        "source", metavar="SOURCE", help=".onnx (float or QDQ), .pt2 (torch.export.save), .keras, or float .tflite"
    )
    parser.add_argument("-o", "--output", required=True, metavar="MODEL.tflite", help="file to write")
    parser.add_argument(
        "--calibrate",
        metavar="DATA.npz",
        help="calibration or x: (N, shape of the input), in the source's layout; QDQ files need none",
    )
    parser.add_argument(
        "--nhwc",
        action="store_true",
        help="inputs and outputs keep their channels last; else they are as in the source",
    )
    parser.add_argument(
        "--tflm",
        action="store_true",
        help="only operators that TensorFlow Lite Micro has: GELU becomes x * sigmoid(1.702 x)",
    )
    parser.add_argument("--report", action="store_true", help="the agreement with the float model layer by layer")
    add_config(parser)
    parser.set_defaults(handler=command)
