"""Six networks from PyTorch, ONNX and Keras to int8: near the float network, and the same bytes everywhere."""
