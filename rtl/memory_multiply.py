"""The multiply engine of a machine with a memory port: tokens of MOVE, passes that it holds, addresses turned back."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.multiply import MultiplyEngine
from lepton.rtl.registers import late
from lepton.rtl.spec.isa import Cause
from lepton.rtl.tile_stage import TileStage
from lepton.rtl.tokens import TokenCounter


class MemoryTileStage(TileStage):
    """`TileStage` with ``move`` `ports.token` (of `wait_move`: taken by the instruction's first pass) · ``hold`` In(1):
    no pass starts · ``load_waits`` In(1): the next LOAD waits for MOVE · ``posts`` Out(1): the pass that starts is the
    last of a MUL with `post_move` · ``lost`` Out(1): more data tokens than are counted
    """

    def _members(self, address_bits):
        inputs = {name: In(1) for name in ("hold", "load_waits")}
        outputs = {name: Out(1) for name in ("posts", "lost")}
        return super()._members(address_bits) | {"move": Out(ports.token()), **inputs, **outputs}

    def _tokens(self, m):
        m.submodules.tokens = tokens = TokenCounter()
        need_token = Signal(reset_less=True)
        token_ok = Signal()
        m.d.comb += [
            token_ok.eq(~need_token | tokens.token.there),
            tokens.token.take.eq(self.start & need_token),
            tokens.give.eq(self.banks.token),
            self.lost.eq(tokens.lost),
        ]
        return need_token, token_ok

    def _also(self, m, ready):
        self._need_move, self._move_ok = Signal(name="need_move", reset_less=True), Signal(name="move_ok")
        m.d.comb += [
            self._move_ok.eq(~self._need_move | self.move.there),
            self.move.take.eq(self.start & self._need_move),
        ]
        with m.If(self.start):
            m.d.sync += self._need_move.eq(0)
        return ready & self._move_ok & ~self.hold

    def _ends(self, m, t, take_end):
        m.d.comb += self.posts.eq(take_end & t.post_move)

    def _accepts(self, m, new):
        m.d.sync += self._need_move.eq(new.wait_move)

    def _waits(self, m, token_ok, bank_ok):
        with m.If(self.start | (self.running & ~self.final)):
            m.d.sync += self.cause.eq(Cause.MULTIPLY)
        with m.Elif(~self.held):
            m.d.sync += self.cause.eq(Cause.FETCH)
        with m.Elif(~token_ok):
            m.d.sync += self.cause.eq(Cause.ACTIVATIONS)
        with m.Elif(~self._move_ok):
            m.d.sync += self.cause.eq(Cause.MEMORY)
        with m.Elif(~bank_ok):
            m.d.sync += self.cause.eq(Cause.TAIL)
        with m.Elif(~self.tile.valid & ~self.load_waits):
            m.d.sync += self.cause.eq(Cause.WEIGHTS)
        with m.Else():
            m.d.sync += self.cause.eq(Cause.MEMORY)


class MemoryMultiply(MultiplyEngine):
    """`MultiplyEngine` with ``move``, ``hold``, ``load_waits``, ``lost`` of `MemoryTileStage` · ``post_move`` Out(1):
    pulse, for MULs with `post_move`, when the last vector's activations are read and its tile is on its way: a write
    that begins in the cycle after overwrites nothing that is still to be read
    """

    def _members(self, config):
        inputs = {name: In(1) for name in ("hold", "load_waits")}
        outputs = {name: Out(1) for name in ("post_move", "lost")}
        return super()._members(config) | {"move": Out(ports.token()), **inputs, **outputs}

    def _stage(self):
        return MemoryTileStage(self._config)

    def _address(self, m: Module, stage, walk):
        self._tokens(m, stage, walk)
        mul = stage.o.mul
        first, size = (Signal.like(mul[name], name=name, reset_less=True) for name in ("wrap_y", "wrap_size"))
        with m.If(stage.start):
            m.d.sync += [first.eq(mul.wrap_y), size.eq(mul.wrap_size)]
        turned = Signal.like(walk.address, name="turned", reset_less=True)
        m.d.sync += turned.eq(walk.address - Mux(walk.y >= first, size, 0))
        return turned

    def _tokens(self, m, stage, walk):
        posts = Signal()
        with m.If(stage.start):
            m.d.sync += posts.eq(stage.posts)
        last = walk.running & walk.final & posts
        m.d.comb += [
            stage.hold.eq(self.hold),
            stage.load_waits.eq(self.load_waits),
            stage.move.there.eq(self.move.there),
            self.move.take.eq(stage.move.take),
            self.lost.eq(stage.lost),
            self.post_move.eq(late(m, last, self.timing.load_delay, "posted", reset_less=False)),
        ]
