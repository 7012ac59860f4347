"""Tokens: what one engine gives another, to say that something is done."""

from collections.abc import Callable

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.spec import timing


class TokenCounter(wiring.Component):
    """Tokens given and not yet taken.

    Members: ``give`` In(1) · ``token`` `ports.token`: there from the cycle after ``give`` on · ``lost`` Out(1): this
    one is more than `timing.TOKENS`. Reset: none.
    """

    give: In(1)
    token: In(ports.token())
    lost: Out(1)

    def elaborate(self, platform):
        m = Module()
        count = Signal(range(timing.TOKENS + 1))
        m.d.comb += [
            self.token.there.eq(count != 0),
            self.lost.eq(self.give & ~self.token.take & (count == timing.TOKENS)),
        ]
        m.d.sync += count.eq(count + self.give - self.token.take)
        return m


class TokenGate(wiring.Component):
    """Instructions wait for their token on their way to an engine.

    Parameters: `bits` of an instruction; `asks`, which of its bits says that it takes one.
    Members: ``i``, ``o`` Stream(bits) · ``token`` `ports.token` · ``waits`` Out(1): an instruction lacks it.
    No latency.
    """

    def __init__(self, bits: int, asks: Callable[[Value], Value]):
        self._asks = asks
        instructions = stream.Signature(bits)
        super().__init__({"i": In(instructions), "o": Out(instructions), "token": Out(ports.token()), "waits": Out(1)})

    def elaborate(self, platform):
        m = Module()
        asks = Signal()
        passes = Signal()
        m.d.comb += [
            asks.eq(self._asks(self.i.payload)),
            passes.eq(~asks | self.token.there),
            self.o.valid.eq(self.i.valid & passes),
            self.o.payload.eq(self.i.payload),
            self.i.ready.eq(self.o.ready & passes),
            self.token.take.eq(self.i.valid & self.i.ready & asks),
            self.waits.eq(self.i.valid & ~passes),
        ]
        return m
