"""float32 convolutions and matrix products: one product after the other, in TFLM's order, for sums to the last bit."""

import numpy as np

from lepton.sw.reference import arith
from lepton.sw.reference.kernels.windows import windows


def _finish(op, total, bias):
    total = total if bias is None else total + bias.reshape(-1)
    return arith.activate(total, op.options.get("activation", "NONE"))


def _bias(args, at):
    return args[at] if len(args) > at else None


def conv(op, args, shape):
    """Order: rows and columns of the window, then channels."""
    x, w = args[:2]
    view, total, groups = windows(x, op, shape, 0), np.zeros(shape, np.float32), op.options["groups"]
    cin, cout = w.shape[3], w.shape[0] // groups
    for i in range(w.shape[1]):
        for j in range(w.shape[2]):
            for c in range(cin):
                for g in range(groups):
                    out = slice(g * cout, (g + 1) * cout)
                    total[..., out] += view[:, :, :, i, j, g * cin + c, None] * w[out, i, j, c]
    return _finish(op, total, _bias(args, 2))


def depthwise(op, args, shape):
    x, w = args[:2]
    view = windows(np.repeat(x, op.options["depth_multiplier"], axis=3), op, shape, 0)
    total = np.zeros(shape, np.float32)
    for i in range(w.shape[1]):
        for j in range(w.shape[2]):
            total += view[:, :, :, i, j] * w[0, i, j]
    return _finish(op, total, _bias(args, 2))


def fully_connected(op, args, shape):
    x, w = args[:2]
    x = x.reshape(-1, w.shape[1])
    total = np.zeros((len(x), len(w)), np.float32)
    for c in range(w.shape[1]):
        total += x[:, c, None] * w[:, c]
    return _finish(op, total, _bias(args, 2)).reshape(shape)


def transpose_conv(op, args, shape):
    """Order: rows and columns of the input, then channels; so a window is gone through from its end."""
    p, (_, w, x) = op.options, args[:3]
    (n, h, width, cin), (kh, kw) = x.shape, w.shape[1:3]
    sh, sw, ph, pw = p["stride_h"], p["stride_w"], p["pad_h"], p["pad_w"]
    size = max((h - 1) * sh + kh, ph + shape[1]), max((width - 1) * sw + kw, pw + shape[2])
    big = np.zeros((n, *size, shape[3]), np.float32)
    for i in reversed(range(kh)):
        for j in reversed(range(kw)):
            part = big[:, i : i + h * sh : sh, j : j + width * sw : sw][:, :h, :width]
            for c in range(cin):
                part += x[..., c, None] * w[:, i, j, c]
    return _finish(op, big[:, ph : ph + shape[1], pw : pw + shape[2]], _bias(args, 3))
