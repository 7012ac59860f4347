"""Functions of two tensors, element by element."""

from lepton.sw.reference import arith, quantities
from lepton.sw.reference.kernels.registry import kernel


@kernel("ADD", "SUB")
def add(model, op, args):
    return arith.add(args[0], args[1], quantities.add_parameters(model, op), subtract=op.op == "SUB")


@kernel("MUL")
def mul(model, op, args):
    return arith.mul(args[0], args[1], quantities.mul_parameters(model, op))
