"""Run control by itself: what starts, ends and counts a run (whole runs: `test_npu.py`)."""

import pytest
from amaranth.sim import Simulator

from lepton.rtl.run_control import RunControl
from lepton.rtl.spec import identity
from lepton.rtl.spec.config import PRESETS
from lepton.rtl.spec.isa import Cause, Reg, Status

CONFIG = PRESETS["small"]


def simulate(bench, counted=tuple(Cause), watchdog=64):
    dut = RunControl(CONFIG, watchdog, counted)
    sim = Simulator(dut)
    sim.add_clock(1e-6)

    async def start(ctx, pc=5, run_id=77):
        """One cycle of the request; what is checked in it is that the engines are cleared."""
        ctx.set(dut.request.start, 1)
        ctx.set(dut.request.pc, pc)
        ctx.set(dut.request.id, run_id)
        assert ctx.get(dut.clear) and ctx.get(dut.request.busy) and not ctx.get(dut.go)
        await ctx.tick()
        ctx.set(dut.request.start, 0)
        assert ctx.get(dut.go) and ctx.get(dut.pc) == pc and ctx.get(dut.running) and not ctx.get(dut.clear)

    done = []

    async def testbench(ctx):
        ctx.set(dut.progress, 1)
        await bench(ctx, dut, start)
        done.append(True)

    sim.add_testbench(testbench)
    sim.run()
    assert done


def test_the_causes_of_a_run_sum_to_its_cycles():
    async def bench(ctx, dut, start):
        await start(ctx)
        seen = [Cause.FETCH, Cause.WEIGHTS, Cause.MULTIPLY, Cause.MULTIPLY, Cause.TAIL, Cause.FETCH, Cause.FETCH]
        for k, cause in enumerate(seen):
            ctx.set(dut.cause, cause)
            ctx.set(dut.no_more, k >= 4)  # the FETCH after that is a drain
            ctx.set(dut.finished, k == len(seen) - 1)
            await ctx.tick()
        assert ctx.get(dut.status) == Status.DONE and not ctx.get(dut.request.busy)
        for _ in range(3):
            await ctx.tick()  # nothing counts any more
        registers = [ctx.get(register) for register in dut.registers]
        assert registers[Reg.CYCLES] == len(seen) and registers[Reg.STATUS] == Status.DONE
        assert registers[Reg.RUN_ID] == 77
        found = [registers[Reg[cause.name]] for cause in Cause]
        assert found == [2, 1, 0, 1, 1, 2, 0] and sum(found) == len(seen)
        assert {reg: registers[reg] for reg in identity.pack(CONFIG)} == identity.pack(CONFIG)

    simulate(bench)


@pytest.mark.parametrize(
    "raised, status",
    [
        (["bad_opcode"], Status.BAD_OPCODE),
        (["bad_instruction"], Status.BAD_INSTRUCTION),
        (["bad_address"], Status.BAD_ADDRESS),
        (["bad_opcode", "bad_instruction", "bad_address", "finished"], Status.BAD_OPCODE),
        (["bad_instruction", "bad_address", "finished"], Status.BAD_INSTRUCTION),
        (["bad_address", "bus_error", "finished"], Status.BAD_ADDRESS),
        (["bus_error", "finished"], Status.BUS_ERROR),
    ],
)
def test_an_error_clears_the_engines_and_names_itself(raised, status):
    async def bench(ctx, dut, start):
        for name in raised:
            ctx.set(getattr(dut, name), 1)
        assert not ctx.get(dut.clear)  # no run is in progress
        await start_without_check(ctx, dut)
        assert ctx.get(dut.clear)
        await ctx.tick()
        assert ctx.get(dut.status) == status and not ctx.get(dut.clear)

    async def start_without_check(ctx, dut):
        ctx.set(dut.request.start, 1)
        await ctx.tick()
        ctx.set(dut.request.start, 0)

    simulate(bench)


def test_the_watchdog_ends_what_does_not_go_on():
    async def bench(ctx, dut, start):
        await start(ctx)
        for _ in range(63):
            ctx.set(dut.progress, 0)
            await ctx.tick()
        ctx.set(dut.progress, 1)  # in time
        await ctx.tick()
        ctx.set(dut.progress, 0)
        for _ in range(65):
            assert ctx.get(dut.status) == Status.RUNNING
            await ctx.tick()
        assert ctx.get(dut.status) == Status.STALLED

    simulate(bench)


def test_a_reset_stops_the_run_and_keeps_its_count():
    async def bench(ctx, dut, start):
        await start(ctx)
        for _ in range(4):
            await ctx.tick()
        ctx.set(dut.request.reset, 1)
        assert ctx.get(dut.clear)
        await ctx.tick()
        ctx.set(dut.request.reset, 0)
        assert ctx.get(dut.status) == Status.IDLE and not ctx.get(dut.clear) and not ctx.get(dut.go)
        assert ctx.get(dut.registers[Reg.CYCLES]) == 5

    simulate(bench)


def test_causes_without_a_counter_read_zero():
    async def bench(ctx, dut, start):
        await start(ctx)
        ctx.set(dut.cause, Cause.MULTIPLY)
        await ctx.tick().repeat(5)
        assert ctx.get(dut.registers[Reg.CYCLES]) == 5 and ctx.get(dut.registers[Reg.MULTIPLY]) == 0

    simulate(bench, counted=())


def test_a_short_watchdog_is_refused():
    with pytest.raises(ValueError, match="watchdog=63: must be at least 64"):
        RunControl(CONFIG, 63, ())
