"""cocotb testbenches on Verilator.

`top` is what is simulated, `build` makes the simulator, `*_tb` run inside it, `common` is what they share.
tests/test_cocotb.py builds and starts them.
"""
