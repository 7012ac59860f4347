"""Cells of the ECP5 against what stands in for them in simulation, on yosys' models of the cells."""
