"""What TensorFlow Lite Micro computes: expectations of tests, never from the code under test."""

import numpy as np
from tflite_micro.python.tflite_micro import runtime


def outputs(data: bytes, *inputs: np.ndarray, count: int = 1) -> list[np.ndarray]:
    """Rows of each output, in the tensors' shapes, one after the other in one interpreter (state is carried).

    inputs: (N, *shape of the tensor) each. count: of outputs.
    """
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=1 << 22)
    rows = []
    for i in range(len(inputs[0]) if inputs else 1):
        for k, x in enumerate(inputs):
            interpreter.set_input(np.ascontiguousarray(x[i]), k)
        interpreter.invoke()
        rows.append([np.array(interpreter.get_output(k)) for k in range(count)])
    return [np.stack(column) for column in zip(*rows)]
