"""What is known when a model is read: constants, and operators that compute nothing anybody wants.

With batch 1 all shapes are known, so the operators by which a converter keeps a batch free (SHAPE, STRIDED_SLICE,
PACK in front of a RESHAPE) have constants for results, and so have all others that read only constants. The golden
kernels compute them; the tensors become constants, and the operators vanish.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lepton.sw.graph.control import EFFECTS, Variables
from lepton.sw.graph.model import STORED, Model, Operator, Tensor
from lepton.sw.reference import golden

MAX_ELEMENTS = 1 << 24
"""Larger results are left to the run."""
PRODUCTS = ("BATCH_MATMUL", "CONV_2D", "CONV_3D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")


class Budget:
    """Values and products that the constants of a file may take altogether; the rest is left to the run."""

    def __init__(self, left: int = 1 << 32):
        self.left = left

    def allows(self, op: Operator, ins: list[Tensor], outs: list[Tensor]) -> bool:
        """Whether the results of an operator are quickly there; then they are paid for."""
        size = sum(t.size for t in outs)
        work = size * max(t.size for t in ins) if op.op in PRODUCTS else 64 * (size + sum(t.size for t in ins))
        if size > MAX_ELEMENTS or work > self.left:
            return False
        self.left -= work
        return True


def fold(op: Operator, tensors: Sequence[Tensor], variables: Variables, budget: Budget) -> list[Tensor]:
    """The outputs of an operator as constants, or none if it depends on what the model is given."""
    outs = [tensors[i] for i in op.outputs]
    if op.op == "VAR_HANDLE":
        return [replace(outs[0], data=_constant(np.full(outs[0].shape, variables.handle(op), np.int32)))]
    if op.op == "ASSIGN_VARIABLE":
        handle = tensors[op.inputs[0]].data
        assert handle is not None
        variables.assign(op, int(handle.flat[0]), tensors[op.inputs[1]])
    if op.op in (*EFFECTS, "READ_VARIABLE") or any(t.variable for t in outs):
        return []
    ins = [tensors[i] for i in op.inputs if i >= 0]
    if op.op == "SHAPE":
        made: tuple[np.ndarray, ...] = (np.array(ins[0].shape, STORED[outs[0].dtype]),)
    elif not all(t.constant for t in ins) or op.op not in golden.KERNELS or not budget.allows(op, ins, outs):
        return []
    else:
        made = golden.run_operator(Model(tuple(tensors), (), (), (), ""), op, {})
    return [replace(t, data=_constant(y.reshape(t.shape))) for t, y in zip(outs, made, strict=True)]


def _constant(data: np.ndarray) -> np.ndarray:
    data = np.asarray(data, order="C")  # ascontiguousarray would make a vector of a scalar
    data.flags.writeable = False
    return data


def living(operators: Sequence[Operator], tensors: Sequence[Tensor], outputs: Sequence[int]) -> list[Operator]:
    """The operators that the outputs need, or that leave something behind."""
    needed, kept = set(outputs), []
    for op in reversed(operators):
        wanted = any(i in needed and not tensors[i].constant for i in op.outputs)
        if wanted or op.op in EFFECTS or any(i >= 0 and tensors[i].variable for i in op.inputs):
            kept.append(op)
            needed.update(op.inputs)
    return kept[::-1]
