"""The accelerator on the buses of other people's chips."""
