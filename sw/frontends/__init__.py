"""From a framework's file to an int8 .tflite: readers to a float graph, and the quantizer."""
