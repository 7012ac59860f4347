"""Functional coverage of the benches and code coverage of the RTL."""
