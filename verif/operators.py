"""The page of operators, docs/operators.md: what the golden model computes, and why it does not compute the rest.

python -m lepton.verif.operators --write
"""

import argparse
import sys
from pathlib import Path

import tflite

from lepton.sw.graph.operators import SPECS

PAGE = Path("docs/operators.md")
LITERT = """
GELU ONE_HOT POW RANK REDUCE_ANY REDUCE_PROD RELU_0_TO_1 RELU_N1_TO_1 SELECT SIGN TILE
""".split()
"""Operators that converters write and TFLM has no kernel for: LiteRT's reference kernels are the definition."""
ABSENT = {
    "shape known only when it runs": "RANGE UNIQUE WHERE NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5",
    "random": "MULTINOMIAL RANDOM_STANDARD_NORMAL RANDOM_UNIFORM STABLEHLO_RNG_BIT_GENERATOR",
    "strings or tables of them": """
        CONCAT_EMBEDDINGS EMBEDDING_LOOKUP_SPARSE HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_LOOKUP
        HASHTABLE_SIZE LSH_PROJECTION SKIP_GRAM""",
    "complex numbers": "COMPLEX_ABS IMAG REAL RFFT2D",
    "float32 only, in TFLM no kernel": """
        ATAN2 BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN BUCKETIZE CONV_3D CONV_3D_TRANSPOSE DENSIFY
        FAKE_QUANT LOCAL_RESPONSE_NORMALIZATION LSTM RNN UNIDIRECTIONAL_SEQUENCE_RNN""",
    "in TFLM no kernel, and no converter was seen to write it into an int8 model": """
        BITCAST BITWISE_XOR CALL DILATE MATRIX_DIAG MATRIX_SET_DIAG REDUCE_WINDOW REVERSE_SEQUENCE RIGHT_SHIFT
        SCATTER_ND SEGMENT_SUM SPARSE_TO_DENSE TOPK_V2 UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD
        UNSORTED_SEGMENT_SUM""",
    "a custom operator, or none at all": "CUSTOM DELEGATE PLACEHOLDER_FOR_GREATER_OP_CODES",
    "StableHLO: convert to TFLite's own operators": "STABLEHLO_*",
}
"""Why operators of the schema are not computed: reason to names."""


def absent(name: str) -> str | None:
    """Why an operator is not computed; None when it is, or nothing is known."""
    for reason, names in ABSENT.items():
        if name in names.split() or name.startswith("STABLEHLO_") and "STABLEHLO_*" in names:
            return reason
    return None


def schema() -> list[str]:
    """Names of all operators of the schema."""
    return sorted(name for name in vars(tflite.BuiltinOperator) if name.isupper())


def page() -> str:
    known = [name for name in sorted(SPECS) if name not in LITERT]
    rows = [f"| {reason} | {', '.join(f'`{n}`' for n in names.split())} |" for reason, names in ABSENT.items()]
    return "\n".join(
        [
            "# Operators",
            "",
            "`lepton check MODEL.tflite` says for each operator of a model where it runs and why.",
            "",
            f"The golden model, and with it the host's part of every backend, computes {len(SPECS)} operators.",
            "",
            f"**Byte for byte as TensorFlow Lite Micro** ({len(known)}), float results included:",
            "",
            ", ".join(f"`{n}`" for n in known) + ".",
            "",
            "Types: those of TFLM's kernel, and any for operators that only move values. float32 functions (`EXP`,",
            "`LOG`, `SIN`, `COS`, `TANH`, `LOGISTIC`, `ELU`) are the C library's: the interpreter's to the last bit on",
            "the same machine. Where TFLM has no answer there is one all the same: over 0, for indices outside, for",
            "`RSQRT` below the zero point, for borders of `SPACE_TO_BATCH_ND` (the zero point; TFLM sets none).",
            "",
            f"**As LiteRT's reference kernels** ({len(LITERT)}), because converters write them and TFLM has none:",
            "",
            ", ".join(f"`{n}`" for n in LITERT)
            + "; so are the masks `ellipsis` and `new_axis` of `STRIDED_SLICE`, and int8",
            "`EXP`, `LOG` and `SQRT` (look-up tables).",
            "",
            "**Not computed**, refused in one line that names the operator:",
            "",
            "| reason | operators |",
            "| --- | --- |",
            *rows,
            "",
            "This page is written by `python -m lepton.verif.operators --write`.",
            "",
        ]
    )


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lepton.verif.operators", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE} (default: print it)")
    if parser.parse_args(arguments).write:
        PAGE.write_text(page())
    else:
        print(page(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
