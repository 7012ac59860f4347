"""SOFTMAX."""

from lepton.sw.reference import arith
from lepton.sw.reference.kernels.registry import kernel


@kernel("SOFTMAX")
def softmax(model, op, args):
    return arith.softmax(args[0], model.tensors[op.inputs[0]].scale, op.options["beta"])
