"""Small .tflite files for tests and for the fuzzer."""

import numpy as np

from lepton.sw.graph.writer import OperatorSpec, TensorSpec, write_model


def build(tensors, operators, inputs, outputs, others=()) -> bytes:
    """Bytes of a model; `others`: GraphSpecs of its further subgraphs.

    tensors: (shape, scale(s) or None, zero_point(s), data or None, quant_axis, then if need be dtype and whether it is
    a variable), or a TensorSpec; the dtype is that of the data, without data int8. operators: (name, inputs, outputs,
    options), options None or (name of the options table, field to value). inputs, outputs: tensor indexes.
    """
    specs = [t if isinstance(t, TensorSpec) else _tensor(i, *t) for i, t in enumerate(tensors)]
    coded = [OperatorSpec(op, ins, outs, *(options or (None,))) for op, ins, outs, options in operators]
    return write_model(specs, coded, inputs, outputs, others=others)


def _tensor(i, shape, scale, zero, data, axis, dtype=None, variable=False) -> TensorSpec:
    scales = () if scale is None else np.atleast_1d(np.float32(scale))
    dtype = dtype or ("int8" if data is None else data.dtype.name)
    return TensorSpec(f"t{i}", shape, dtype, scales, np.atleast_1d(zero), axis, data, variable)


def one_operator(op, tensors, inputs, outputs, options=None, kind=None, graph_inputs=None) -> bytes:
    """Bytes of a model of one operator; its inputs without data are the model's. kind: name of the options table."""
    given = graph_inputs or list(dict.fromkeys(i for i in inputs if i >= 0 and tensors[i][3] is None))
    table = None if kind is None else (kind, options or {})
    return build(tensors, [(op, inputs, outputs, table)], given, outputs)
