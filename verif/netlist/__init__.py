"""Simulation of synthesized and routed netlists."""
