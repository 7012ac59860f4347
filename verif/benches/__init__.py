"""cocotb testbenches on Verilator: `*_tb.py` run inside the simulator, `build` makes it, tests/test_cocotb.py starts both."""
