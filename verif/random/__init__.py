"""Random graphs, programs and faults, against TFLM, the simulator and a model of the link."""
