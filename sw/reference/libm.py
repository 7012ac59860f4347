"""float32 functions of the C library (glibc 2.27 and later) as TFLM's builds call them.

NumPy's own differ in the last bit, and with the processor. These compute in float64 as the library does and round
once; the library's worst error, 0.502 units in the last place, makes that the same float32.
"""

import numpy as np

_STEPS = 32
_TABLE = np.exp2(np.arange(_STEPS) / _STEPS)
_CUBIC = (0.05550361559341535, 0.2402284522445722, 0.6931471806916203)
"""2**r - 1 for |r| <= 1/64 as a cubic in r without its constant."""


def expf(x) -> np.ndarray:
    """e**x of a float32 array: 2**(k/32) from a table, times a cubic."""
    x = np.asarray(x, np.float32)
    z = x.astype(np.float64) * (_STEPS / np.log(2.0))
    k = np.rint(z)
    r = (z - k) / _STEPS
    whole = k.astype(np.int64)
    cubic = (_CUBIC[0] * r + _CUBIC[1]) * (r * r) + (_CUBIC[2] * r + 1.0)
    with np.errstate(under="ignore", over="ignore"):
        return np.ldexp(cubic * _TABLE[whole % _STEPS], (whole // _STEPS).astype(np.int64)).astype(np.float32)
