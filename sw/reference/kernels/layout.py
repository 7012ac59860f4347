"""Operators that move values and compute none."""

import numpy as np

from lepton.sw.reference import arith, quantities
from lepton.sw.reference.kernels.registry import dense, kernel


@kernel("PAD", "PADV2")
def pad(model, op, args):
    return np.pad(args[0], op.options["paddings"], constant_values=op.options["value"])


@kernel("MIRROR_PAD")
def mirror_pad(model, op, args):
    """Mode 0 mirrors about the border values, mode 1 repeats them, too."""
    return np.pad(args[0], op.options["paddings"], mode="symmetric" if op.options["mode"] else "reflect")


@kernel("CONCATENATION")
def concat(model, op, args):
    return np.concatenate(args, axis=op.options["axis"])


@kernel("EXPAND_DIMS", "RESHAPE", "SQUEEZE")
def reshape(model, op, args):
    return args[0].reshape(model.tensors[op.outputs[0]].shape)


@kernel("SLICE", "STRIDED_SLICE")
def strided_slice(model, op, args):
    return dense(args[0][op.options["slices"]]).reshape(model.tensors[op.outputs[0]].shape)


@kernel("SPLIT", "SPLIT_V")
def split(model, op, args):
    x = args[1] if op.op == "SPLIT" else args[0]
    cuts = np.cumsum(op.options["sizes"])[:-1]
    return tuple(np.asarray(part, order="C") for part in np.split(x, cuts, axis=op.options["axis"]))


@kernel("PACK")
def pack(model, op, args):
    return np.stack(args, axis=op.options["axis"])


@kernel("UNPACK")
def unpack(model, op, args):
    return tuple(np.asarray(part, order="C") for part in np.moveaxis(args[0], op.options["axis"], 0))


@kernel("TRANSPOSE")
def transpose(model, op, args):
    return dense(args[0].transpose(op.options["perm"]))


@kernel("GATHER")
def gather(model, op, args):
    """Indices outside are undefined in TFLM; the nearest value stands there."""
    x, at = args
    axis, batch = op.options["axis"], op.options["batch_dims"]
    at = np.clip(at, 0, x.shape[axis] - 1)
    if batch == 0:
        return np.take(x, at, axis=axis)
    rows = [
        np.take(a, b, axis=axis - batch)
        for a, b in zip(x.reshape(-1, *x.shape[batch:]), at.reshape(-1, *at.shape[batch:]))
    ]
    return np.stack(rows).reshape(model.tensors[op.outputs[0]].shape)


@kernel("GATHER_ND")
def gather_nd(model, op, args):
    x, at = args
    sizes = np.array(x.shape[: at.shape[-1]])
    return np.asarray(x[tuple(np.moveaxis(np.clip(at, 0, sizes - 1), -1, 0))], order="C")


@kernel("EMBEDDING_LOOKUP")
def embedding_lookup(model, op, args):
    at, table = args
    rows = table[np.clip(at, 0, len(table) - 1)]
    if model.tensors[op.outputs[0]].dtype == rows.dtype.name:
        return rows
    return (np.float32(model.tensors[op.inputs[1]].scale) * rows.astype(np.float32)).astype(np.float32)


@kernel("DYNAMIC_UPDATE_SLICE")
def dynamic_update_slice(model, op, args):
    x, part, at = args
    first = np.clip(at.reshape(-1), 0, np.array(x.shape) - np.array(part.shape))
    out = x.copy()
    out[tuple(slice(a, a + n) for a, n in zip(first, part.shape))] = part
    return out


@kernel("BROADCAST_TO")
def broadcast_to(model, op, args):
    return np.broadcast_to(args[0], model.tensors[op.outputs[0]].shape).copy()


@kernel("BROADCAST_ARGS")
def broadcast_args(model, op, args):
    return np.array(np.broadcast_shapes(*(tuple(a) for a in args)), args[0].dtype)


@kernel("TILE")
def tile(model, op, args):
    return np.tile(args[0], op.options["times"])


@kernel("FILL")
def fill(model, op, args):
    return np.full(model.tensors[op.outputs[0]].shape, args[1].reshape(-1)[0])


@kernel("ZEROS_LIKE")
def zeros_like(model, op, args):
    """Raw zeros, whatever the zero point."""
    return np.zeros_like(args[0])


@kernel("RANK", "SHAPE")
def shape(model, op, args):
    size = model.tensors[op.inputs[0]].shape
    return np.array(len(size) if op.op == "RANK" else size, model.tensors[op.outputs[0]].dtype)


@kernel("REVERSE_V2")
def reverse(model, op, args):
    return dense(np.flip(args[0], op.options["axis"]))


@kernel("DEPTH_TO_SPACE")
def depth_to_space(model, op, args):
    n, (b, h, w, c) = op.options["block_size"], args[0].shape
    x = args[0].reshape(b, h, w, n, n, c // (n * n)).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * n, w * n, c // (n * n))


@kernel("SPACE_TO_DEPTH")
def space_to_depth(model, op, args):
    n, (b, h, w, c) = op.options["block_size"], args[0].shape
    x = args[0].reshape(b, h // n, n, w // n, n, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // n, w // n, n * n * c)


@kernel("SPACE_TO_BATCH_ND")
def space_to_batch(model, op, args):
    """The paddings are of the output's zero point."""
    y = model.tensors[op.outputs[0]]
    x, block = args[0], op.options["block"]
    value = y.zero_point if y.dtype in arith.LIMITS else 0
    x = np.pad(x, ((0, 0), *op.options["borders"], (0, 0)), constant_values=value)
    split = [x.shape[0], *(v for d, b in zip(x.shape[1:-1], block) for v in (d // b, b)), x.shape[-1]]
    inner = range(2, 2 + 2 * len(block), 2)
    x = x.reshape(split).transpose(*inner, 0, *(i - 1 for i in inner), len(split) - 1)
    return dense(x.reshape(y.shape))


@kernel("BATCH_TO_SPACE_ND")
def batch_to_space(model, op, args):
    x, block = args[0], op.options["block"]
    n, m = len(block), int(np.prod(block))
    x = x.reshape(*block, x.shape[0] // m, *x.shape[1:])
    order = [n, *(v for i in range(n) for v in (n + 1 + i, i)), 2 * n + 1]
    x = x.transpose(order)
    x = x.reshape(x.shape[0], *(x.shape[1 + 2 * i] * block[i] for i in range(n)), x.shape[-1])
    cut = (slice(p, d - q) for d, (p, q) in zip(x.shape[1:-1], op.options["borders"]))
    return dense(x[:, *cut])


@kernel("RESIZE_NEAREST_NEIGHBOR")
def resize(model, op, args):
    y = model.tensors[op.outputs[0]]
    x = args[0]
    rows, columns = (quantities.resize_indices(op, x.shape[i], y.shape[i]) for i in (1, 2))
    return x[:, rows][:, :, columns]


@kernel("RESIZE_BILINEAR")
def resize_bilinear(model, op, args):
    y, x = model.tensors[op.outputs[0]], args[0]
    if x.dtype == np.float32:
        return _bilinear_float(op, x, y.shape)
    (y0, y1, fy), (x0, x1, fx) = (quantities.bilinear_places(op, x.shape[i], y.shape[i]) for i in (1, 2))
    x = x.astype(np.int64)
    fy = fy[:, None, None]
    rows = x[:, y0] * (1024 - fy) + x[:, y1] * fy
    fx = fx[:, None]
    total = rows[:, :, x0] * (1024 - fx) + rows[:, :, x1] * fx
    half = np.where(total > 0, 1 << 19, -(1 << 19))
    rounded = np.abs(total + half) >> 20  # C++ divides toward zero
    return (np.sign(total + half) * rounded).astype(y.dtype)


def _bilinear_float(op, x, shape):
    one = np.float32(1)
    axes = []
    for i in (1, 2):
        size, out = x.shape[i], shape[i]
        scale = np.float32(size) / np.float32(out)
        if op.options["align_corners"] and out > 1:
            scale = np.float32(size - 1) / np.float32(out - 1)
        at = np.arange(out, dtype=np.float32)
        at = (at + np.float32(0.5)) * scale - np.float32(0.5) if op.options["half_pixel_centers"] else at * scale
        low = np.maximum(np.floor(at).astype(np.int64), 0)
        axes.append((low, np.minimum(np.ceil(at).astype(np.int64), size - 1), at - low.astype(np.float32)))
    (y0, y1, fy), (x0, x1, fx) = axes
    fy, fx = fy[:, None, None], fx[:, None]
    corner = {(a, b): x[:, r][:, :, c] for a, r in ((0, y0), (1, y1)) for b, c in ((0, x0), (1, x1))}
    return (
        corner[0, 0] * (one - fy) * (one - fx)
        + corner[1, 0] * fy * (one - fx)
        + corner[0, 1] * (one - fy) * fx
        + corner[1, 1] * fy * fx
    ).astype(np.float32)


@kernel("CAST")
def cast(model, op, args):
    """As C++ on x86 converts: integers wrap, a float goes through int32 (int64 for what is wider)."""
    x, dtype = args[0], model.tensors[op.outputs[0]].dtype
    if x.dtype.kind != "f" or dtype in ("float32", "bool"):
        return x.astype(dtype)
    wide = np.int64 if dtype in ("int64", "uint32") else np.int32
    with np.errstate(all="ignore"):
        inside = np.isfinite(x) & (np.abs(x) < 2.0 ** (8 * np.dtype(wide).itemsize - 1))
        return np.where(inside, np.trunc(np.where(inside, x, 0)), np.iinfo(wide).min).astype(wide).astype(dtype)


@kernel("ONE_HOT")
def one_hot(model, op, args):
    at, _, on, off = args
    axis = op.options["axis"]
    places = np.arange(op.options["depth"]).reshape(-1, *(1,) * (at.ndim - axis))
    return np.where(np.expand_dims(at, axis) == places, on.reshape(-1)[0], off.reshape(-1)[0])
