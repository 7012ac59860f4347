"""Operators that move values and compute none."""

import numpy as np

from lepton.sw.reference import quantities
from lepton.sw.reference.kernels.registry import kernel


@kernel("PAD", "PADV2")
def pad(model, op, args):
    return np.pad(args[0], op.options["paddings"], constant_values=op.options["value"])


@kernel("CONCATENATION")
def concat(model, op, args):
    return np.concatenate(args, axis=op.options["axis"])


@kernel("RESHAPE")
def reshape(model, op, args):
    return args[0].reshape(model.tensors[op.outputs[0]].shape)


@kernel("STRIDED_SLICE")
def strided_slice(model, op, args):
    return np.ascontiguousarray(args[0][op.options["slices"]])


@kernel("TRANSPOSE")
def transpose(model, op, args):
    return np.ascontiguousarray(args[0].transpose(op.options["perm"]))


@kernel("RESIZE_NEAREST_NEIGHBOR")
def resize(model, op, args):
    y = model.tensors[op.outputs[0]]
    x = args[0]
    return x[:, quantities.resize_indices(op, x.shape[1], y.shape[1])][
        :, :, quantities.resize_indices(op, x.shape[2], y.shape[2])
    ]
