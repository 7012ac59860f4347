"""The accelerator in Amaranth, with its configuration (`config`) and instruction set (`isa`)."""
