"""Model reader, compiler, runtime and command line."""

BACKENDS = ("golden", "iss", "rtl")
"""What runs a model; besides, `serial:PORT` is a board."""
SERIAL = "serial:"
