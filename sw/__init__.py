"""Model reader, compiler, runtime and command line."""

import os

# NumPy's BLAS takes memory for each of its threads as it is loaded: many cores are too much for a shell with a limit.
os.environ.setdefault("OPENBLAS_NUM_THREADS", str(min(8, os.cpu_count() or 1)))

BACKENDS = ("golden", "iss", "rtl")
"""What runs a model; besides, `serial:PORT` is a board."""
SERIAL = "serial:"
