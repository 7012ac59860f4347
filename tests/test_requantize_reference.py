"""`arith.requantize` against TensorFlow Lite Micro's definition, compiled: ten million random triples, all corners."""

import ctypes
import subprocess

import numpy as np
import pytest

from lepton.sw.reference import arith

# MultiplyByQuantizedMultiplier with two roundings, as gemmlowp's fixedpoint.h and TFLM's common.cc define it.
SOURCE = r"""
#include <cstdint>
#include <limits>
static int32_t high_mul(int32_t a, int32_t b) {
  if (a == b && a == std::numeric_limits<int32_t>::min()) return std::numeric_limits<int32_t>::max();
  int64_t ab = static_cast<int64_t>(a) * static_cast<int64_t>(b);
  int32_t nudge = ab >= 0 ? (1 << 30) : (1 - (1 << 30));
  return static_cast<int32_t>((ab + nudge) / (1ll << 31));
}
static int32_t divide_by_pot(int32_t x, int exponent) {
  const int32_t mask = static_cast<int32_t>((1ll << exponent) - 1);
  const int32_t remainder = x & mask;
  const int32_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
  return (x >> exponent) + (remainder > threshold ? 1 : 0);
}
extern "C" void requantize(const int32_t *x, const int32_t *m, const int32_t *s, int32_t *y, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const int left = s[i] > 0 ? s[i] : 0, right = s[i] > 0 ? 0 : -s[i];
    const int32_t shifted = static_cast<int32_t>(static_cast<uint32_t>(x[i]) << left);
    y[i] = divide_by_pot(high_mul(shifted, m[i]), right);
  }
}
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("requantize")
    (folder / "r.cpp").write_text(SOURCE)
    subprocess.run(["g++", "-O2", "-shared", "-fPIC", "-o", folder / "r.so", folder / "r.cpp"], check=True)
    library = ctypes.CDLL(str(folder / "r.so"))

    def run(x, m, s):
        x, m, s = (np.ascontiguousarray(v, np.int32) for v in np.broadcast_arrays(x, m, s))
        y = np.empty_like(x)
        pointers = [v.ctypes.data_as(ctypes.c_void_p) for v in (x, m, s, y)]
        library.requantize(*pointers, ctypes.c_int64(x.size))
        return y

    return run


def test_ten_million_random(reference):
    rng = np.random.default_rng(20)
    for _ in range(10):
        n = 1_000_000
        x = rng.integers(-(2**31), 2**31, n) >> rng.integers(0, 31, n)
        m = rng.integers(0, 2**31, n) >> (rng.integers(0, 31, n) * (rng.random(n) < 0.2))
        s = rng.integers(-31, 31, n)
        assert np.array_equal(arith.requantize(x, m, s), reference(x, m, s))


def test_all_corners(reference):
    around = [0, *(2**k for k in range(31)), *(3 * 2**k for k in range(29)), 2**31 - 1]
    positive = np.unique([v + d for v in around for d in (-1, 0, 1) if 0 <= v + d < 2**31])
    x = np.concatenate([positive, -positive, [-(2**31)]])[:, None, None]
    m = positive[None, ::2, None]
    s = np.arange(-31, 31)[None, None, :]
    assert np.array_equal(arith.requantize(x, m, s), reference(x, m, s))
