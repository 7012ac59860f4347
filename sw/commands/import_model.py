"""`lepton import`."""

import argparse
from pathlib import Path

from lepton.sw.commands import Subparsers, add_config, progress
from lepton.sw.errors import UserError
from lepton.sw.files import atomic, check_file, check_output, load_config


def command(args: argparse.Namespace) -> int:
    """Import a network as an int8 .tflite."""
    from lepton.sw.frontends.importer import agreement, import_model, layers, load_calibration, show_layers
    from lepton.sw.frontends.simplify import narrow_operators
    from lepton.sw.graph.model import MAX_FILE_BYTES
    from lepton.sw.report import check

    check_output(args.output)
    config = load_config(args.config)
    source = Path(args.source)
    check_file(source, MAX_FILE_BYTES, UserError)
    arrays = load_calibration(args.calibrate) if args.calibrate else None
    counts = progress("calibrating ")

    def calibrated(done: int) -> None:
        if counts and arrays:
            counts(done, len(arrays[0]))

    options = dict(where=args.calibrate or "", progress=calibrated, tflm=args.tflm, activations=args.activations)
    imported = import_model(source, arrays, args.nhwc, **options)
    with atomic(args.output) as temporary:
        temporary.write_bytes(imported.data)
    model = imported.model()
    report = check.check_model(model, config)
    check.show(report)
    print(f"{args.output}: {len(imported.data):,} bytes, {len(model.operators)} operators, from {source.name}")
    if args.activations == 16 and (left := narrow_operators(imported.graph)):
        print(f"activations of 8 bits, since TensorFlow Lite Micro has no kernel for 16: {', '.join(left)}")
    if imported.samples:
        a = agreement(imported, model)
        same = "" if a["same_argmax"] is None else f", the same largest output {a['same_argmax']:.1%}"
        print(
            f"agreement with the float model on {a['samples']} calibration samples: cosine {a['cosine']:.6f}, "
            f"{a['decibels']:.1f} dB, largest error {a['largest_error']:.3g} of a span of {a['span']:.3g}{same}"
        )
        if args.report:
            print("layer by layer (dB alone: the operator by itself, on the integers it has):")
            show_layers(layers(imported, model))
    elif args.report:
        raise UserError("--report compares on calibration data: give --calibrate DATA.npz")
    return 0


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
    parser.add_argument(
        "--activations",
        type=int,
        choices=(8, 16),
        default=8,
        help="bits of the activations; 16 keep what 8 lose in transformers, and are computed on the host",
    )
    parser.add_argument("--report", action="store_true", help="the agreement with the float model layer by layer")
    add_config(parser)
    parser.set_defaults(handler=command)
