"""Windows over a map, for convolutions and pools."""

import numpy as np

from lepton.sw.graph.model import Operator


def windows(x, op: Operator, out_shape, fill):
    """Windows of NHWC x as (n, oh, ow, kh, kw, c), places outside filled with `fill`. A view where it can be."""
    p = op.options
    (kh, kw), (sh, sw) = (p["filter_h"], p["filter_w"]), (p["stride_h"], p["stride_w"])
    dh, dw = p.get("dilation_h", 1), p.get("dilation_w", 1)
    oh, ow = out_shape[1], out_shape[2]
    need_h, need_w = (oh - 1) * sh + (kh - 1) * dh + 1, (ow - 1) * sw + (kw - 1) * dw + 1
    after_h, after_w = need_h - p["pad_h"] - x.shape[1], need_w - p["pad_w"] - x.shape[2]
    pads = ((0, 0), (p["pad_h"], max(after_h, 0)), (p["pad_w"], max(after_w, 0)), (0, 0))
    x = np.pad(x, pads, constant_values=fill)
    n, h, w, c = x.strides
    shape = (x.shape[0], oh, ow, kh, kw, x.shape[3])
    return np.lib.stride_tricks.as_strided(x, shape, (n, h * sh, w * sw, h * dh, w * dw, c), writeable=False)
