"""Pe and Array against NumPy: convolution, depthwise, both PEs, tiles changed every cycle."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from lepton.rtl.array import Array
from lepton.rtl.pe import Pe, psum_bits
from lepton.rtl.spec.config import MULTIPLIERS, NpuConfig

SHAPES = [(6, 3, "single"), (4, 4, "paired"), (9, 8, "single"), (18, 4, "paired"), (4, 4, "single"), (6, 4, "paired")]
SHAPES += [(2, 2, "single"), (2, 3, "paired"), (3, 5, "single"), (12, 5, "paired")]


def config(rows, cols, pe, multiplier="generic", lutram=""):
    return NpuConfig(rows=rows, cols=cols, lanes=1, pe=pe, line_depth=24, multiplier=multiplier, lutram=lutram)


def corner(rng, shape):
    """Random int8, some of them only the extremes."""
    if rng.integers(4) == 0:
        return rng.choice([-128, 127], shape)
    return rng.integers(-128, 128, shape)


def conv_vector(rng, cfg):
    return {"act": corner(rng, max(cfg.rows, cfg.cols)), "depthwise": 0, "line_delay": int(rng.integers(1024))}


def conv_expected(cfg, vector, weights):
    """Sum over lanes; paired: what is left after the correction is the sum plus the pairs of weights' products."""
    result = vector["act"][: cfg.rows] @ weights
    if cfg.pe == "paired":
        result = result + (weights[0::2] * weights[1::2]).sum(axis=0)
    return result


def depthwise_tile(rng, cfg):
    used = cfg.taps * cfg.segments
    weights = np.zeros((cfg.rows, cfg.cols), int)
    if cfg.pe == "paired":
        weights[0 : 2 * used : 2] = corner(rng, (used, cfg.cols))
    else:
        weights[:used] = corner(rng, (used, cfg.cols))
    return weights


def depthwise_expected(cfg, stream, n, width, weights):
    """Sum over s, j of w[taps*s + j] * x[n - j - s*width], as in architecture.md; None before the stream's start."""
    if n < cfg.taps - 1 + (cfg.segments - 1) * width:
        return None
    step = 2 if cfg.pe == "paired" else 1
    taps = [(s, j) for s in range(cfg.segments) for j in range(cfg.taps)]
    return sum(weights[step * (cfg.taps * s + j)] * stream[n - j - s * width][: cfg.cols] for s, j in taps)


def run(cfg, passes, rng, late, latency=None):
    """Drive passes of (weights, vectors, expected) without a gap; each swap comes with a pass's first vector.

    Tiles are loaded as late as allowed (`late`: the cycle before their swap) or as early (the swap before).
    """
    dut = Array(cfg)
    assert latency in (None, dut.LATENCY)
    vectors, expected, loads, swaps = [], [], {}, set()
    start = 2
    previous = 0
    for weights, part, want in passes:
        t = start + len(vectors)
        loads[t - 1 if late else previous] = weights
        swaps.add(t)
        previous = t
        vectors += part
        expected += want
    skew = [r // 2 if cfg.pe == "paired" else r for r in range(cfg.rows)]
    total = start + len(vectors) + dut.LATENCY
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    checked = []

    async def bench(ctx):
        for t in range(total):
            n = t - start
            if 0 <= n < len(vectors):
                v = vectors[n]
                ctx.set(dut.vectors.act, [int(x) for x in v["act"]])
                ctx.set(dut.vectors.depthwise, v["depthwise"])
                ctx.set(dut.vectors.line_delay, v["line_delay"])
            else:
                ctx.set(dut.vectors.act, [int(x) for x in rng.integers(-128, 128, max(cfg.rows, cfg.cols))])
            ctx.set(dut.vectors.swap, int(t in swaps))
            load = 0
            for r in range(cfg.rows):
                if (weights := loads.get(t - skew[r])) is not None:
                    load |= 1 << r
                    ctx.set(dut.tile.weights[r], [int(x) for x in weights[r]])
                else:
                    ctx.set(dut.tile.weights[r], [int(x) for x in rng.integers(-128, 128, cfg.cols)])
            ctx.set(dut.tile.load, load)
            n = t - start - dut.LATENCY
            if n >= 0 and expected[n] is not None:
                assert list(ctx.get(dut.psum)) == expected[n].tolist(), f"vector {n}"
                checked.append(n)
            await ctx.tick()

    sim.add_testbench(bench)
    sim.run_until(1e-8 * (total + 10))
    assert checked == [n for n, e in enumerate(expected) if e is not None]
    assert len(checked) > 20


def conv_pass(rng, cfg, count):
    weights = corner(rng, (cfg.rows, cfg.cols))
    vectors = [conv_vector(rng, cfg) for _ in range(count)]
    return weights, vectors, [conv_expected(cfg, v, weights) for v in vectors]


def depthwise_pass(rng, cfg, width, rows):
    weights = depthwise_tile(rng, cfg)
    stream = [corner(rng, max(cfg.rows, cfg.cols)) for _ in range(width * rows + 1)]
    vectors = [{"act": x, "depthwise": 1, "line_delay": width + cfg.taps} for x in stream]
    return weights, vectors, [depthwise_expected(cfg, stream, n, width, weights) for n in range(len(stream))]


@pytest.mark.parametrize("rows,pe,latency", [(4, "single", 6), (9, "single", 11), (4, "paired", 6), (18, "paired", 13)])
def test_latency(rows, pe, latency):
    cfg, rng = config(rows, 4, pe), np.random.default_rng(rows)
    run(cfg, [conv_pass(rng, cfg, 21)], rng, True, latency)


@pytest.mark.parametrize("lutram", ["", "line"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("rows,cols,pe", SHAPES)
def test_all_modes_without_a_gap(rows, cols, pe, late, lutram):
    """Depthwise streams of all widths, least and greatest line delay, between convolution passes."""
    cfg, rng = config(rows, cols, pe, lutram=lutram), np.random.default_rng(rows * 10 + cols)
    passes = []
    for width in (5, 1, cfg.line_depth - cfg.taps, 2, 7, 7):
        passes.append(depthwise_pass(rng, cfg, width, 4))
        passes += [conv_pass(rng, cfg, 1) for _ in range(int(rng.integers(3)))]
    passes.append(conv_pass(rng, cfg, 6))
    run(cfg, passes, rng, late)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("rows,cols,pe", SHAPES)
def test_a_tile_every_cycle(rows, cols, pe, late):
    cfg, rng = config(rows, cols, pe), np.random.default_rng(rows * 10 + cols)
    run(cfg, [conv_pass(rng, cfg, 1) for _ in range(40)], rng, late)


@pytest.mark.parametrize("multiplier", MULTIPLIERS[1:])
@pytest.mark.parametrize("rows,cols,pe", [(9, 3, "single"), (12, 3, "paired")])
def test_other_multipliers(rows, cols, pe, multiplier):
    if multiplier == "ice40":
        pe = "single"
    cfg, rng = config(rows, cols, pe, multiplier), np.random.default_rng(rows)
    passes = [conv_pass(rng, cfg, 1) for _ in range(20)]
    for width in (5, 1, cfg.line_depth - cfg.taps, 7):
        passes += [depthwise_pass(rng, cfg, width, 4), conv_pass(rng, cfg, 1)]
    run(cfg, passes, rng, True)


@pytest.mark.parametrize("pe", ["single", "paired"])
def test_large(pe):
    cfg, rng = config(16, 16, pe), np.random.default_rng(16)
    run(cfg, [conv_pass(rng, cfg, 1) for _ in range(20)] + [depthwise_pass(rng, cfg, 6, 3)], rng, False)


@pytest.mark.parametrize("pe", ["single", "paired"])
@pytest.mark.parametrize("act,weight", [(-128, -128), (127, -128), (-128, 127), (127, 127)])
def test_extremes_in_all_places(pe, act, weight):
    cfg, rng = config(8, 2, pe), np.random.default_rng(0)
    weights = np.full((8, 2), weight)
    vectors = [{"act": np.full(8, act), "depthwise": 0, "line_delay": 4} for _ in range(21)]
    run(cfg, [(weights, vectors, [conv_expected(cfg, v, weights) for v in vectors])], rng, False)


@pytest.mark.parametrize("pe", ["single", "paired"])
def test_pe_latency_and_chain(pe):
    """One activation through one PE: operands, the product added to the sum from above, the two taps of the chain."""
    cfg = config(4, 4, pe)
    dut = Pe(cfg, 3)
    n = 2 if pe == "paired" else 1
    assert len(dut.o_psum) == psum_bits(cfg, 3)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    done = []

    async def bench(ctx):
        ctx.set(dut.i_load, (1 << n) - 1)
        ctx.set(dut.i_weight, [-128, 3][:n])
        await ctx.tick()
        ctx.set(dut.i_load, 0)
        ctx.set(dut.i_swap, 1)
        ctx.set(dut.i_act, [-128, 7][:n])
        await ctx.tick()
        ctx.set(dut.i_swap, 0)
        ctx.set(dut.i_act, [1, 1][:n])
        assert ctx.get(dut.o_act) == -128
        assert (ctx.get(dut.o_left), ctx.get(dut.o_right)) == ((-125, -121) if pe == "paired" else (-128, -128))
        await ctx.tick()
        assert (ctx.get(dut.o_act), ctx.get(dut.o_chain)) == (1, -128)
        ctx.set(dut.i_psum, 1000)
        ctx.set(dut.i_product, -5)
        await ctx.tick()
        assert ctx.get(dut.o_psum) == 995
        done.append(True)

    sim.add_testbench(bench)
    sim.run_until(1e-6)
    assert done
