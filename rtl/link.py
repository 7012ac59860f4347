"""The host link: framed, CRC-checked requests on a byte stream, carried out on memories and registers."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.frames import WRITE_HEADER
from lepton.rtl.spec.isa import Command, Reg, Region, Result


def _at_least(value, limit):
    """value >= limit, without a carry chain where the limit allows it."""
    if limit == 0:
        return Const(1)
    return value[limit.bit_length() - 1 :].any() if limit.bit_count() == 1 else value >= limit


def _above(value, limit):
    """value > limit, without a carry chain where the limit allows it."""
    bits = limit.bit_length() - 1
    if limit != 1 << bits:
        return value > limit
    return value[bits + 1 :].any() | (value[bits] & value[:bits].any())


class Link(wiring.Component):
    """Serve one request frame at a time; nothing takes effect before the frame's CRC is right.

    Parameters: ``config``; ``act_latency``, cycles from ``r_en`` to ``r_data`` (at least 1); ``timeout``, cycles
    without a byte after which a partial frame is dropped (no reply).

    Members:
        ``i`` Stream(8) request bytes, refused while a request is carried out or answered · ``o`` Stream(8) reply bytes
        ``w_en``, ``w_region`` (3), ``w_index`` (20), ``w_byte`` (11, byte in the word), ``w_data`` (8): memory writes,
        a byte a cycle, only after the whole range was found to fit
        ``r_en``, ``r_addr`` (20), ``r_data`` (8): activation memory read, one at a time, ``r_addr`` held till the data
        ``registers`` ArrayLayout(32, len(Reg)): what READ of REG returns; a word is captured in one cycle (compact:
        byte by byte, so one that changes meanwhile may be torn)
        ``start`` pulse, ``start_pc`` (16) and ``run_id`` (32, 0 after RESET) change in the cycle of the pulse
        ``reset_run`` pulse: stop the run · ``busy``: a run is in progress

    Answers: BAD_CRC, with the sequence received; then BAD_RANGE for a payload over MAX_PAYLOAD, which is swallowed
    whole, or of the wrong length, or a range or first program word outside its memory; BAD_COMMAND; BUSY for WRITE,
    READ of ACT and a new START while ``busy``.
    Latency: the first strobe (compact: one cycle less) or reply byte comes 2 cycles after the request's last byte was
    taken; a WRITE of n bytes
    commits in n cycles. Reply data: a byte every 2 cycles, of activation memory every ``act_latency`` + 2.
    Reset: drops a partial frame, a reply and the run id.
    """

    def __init__(self, config: NpuConfig, act_latency: int, timeout: int = 65536):
        if act_latency < 1:
            raise ValueError(f"act_latency={act_latency}: must be at least 1")
        if timeout < 1:
            raise ValueError(f"timeout={timeout}: must be at least 1")
        self._config = config
        self._act_latency = act_latency
        self._timeout = timeout
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
                "w_en": Out(1),
                "w_region": Out(3),
                "w_index": Out(20),
                "w_byte": Out(11),
                "w_data": Out(8),
                "r_en": Out(1),
                "r_addr": Out(20),
                "r_data": In(8),
                "registers": In(data.ArrayLayout(32, len(Reg))),
                "start": Out(1),
                "start_pc": Out(16),
                "run_id": Out(32),
                "reset_run": Out(1),
                "busy": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        compact = config.compact

        m.submodules.crc = crc = CRC32_ISO_HDLC(data_width=8).create()
        m.submodules.buffer = buffer = memory.Memory(shape=8, depth=isa.MAX_PAYLOAD, init=[], attrs={"no_rw_check": 1})
        buffer_w = buffer.write_port()
        buffer_r = buffer.read_port()

        # The frame: header, count of bytes received in the present part, first bytes of the payload.
        command = Signal(8)
        sequence = Signal(8)
        length = Signal(16)
        count = Signal(16)
        head = Signal(data.ArrayLayout(8, WRITE_HEADER))
        region = head[0]
        index = Cat(head[1], head[2], head[3])
        offset = Cat(head[4], head[5])  # WRITE: byte in the word; READ: words; START: first program word
        arguments = head.as_value()

        # Size of the region's words; a cycle after the region, used cycles later.
        last_byte = Signal(11)
        with m.Switch(region):
            for r in Region:
                with m.Case(r):
                    m.d.sync += last_byte.eq(isa.word_bytes(r, config) - 1)

        # Walks the range of a WRITE twice, as it arrives (to check) and to commit; and the range of a READ.
        walk_index = Signal(24)
        walk_byte = Signal(11)
        walk_step = Signal()
        outside = Signal()
        beyond = Signal()  # walk_index is not a word of the region
        with m.Switch(region):
            for r in Region:
                with m.Case(r):
                    m.d.comb += beyond.eq(_at_least(walk_index, isa.depth(r, config)))
            with m.Default():
                m.d.comb += beyond.eq(1)
        with m.If(walk_step):
            m.d.sync += walk_byte.eq(walk_byte + 1)
            with m.If(walk_byte == last_byte):
                m.d.sync += walk_byte.eq(0)
                m.d.sync += walk_index.eq(walk_index + 1)

        # Verdicts on the arguments, settled before the CRC has arrived.
        is_reg = Signal()
        write_bad = Signal()
        read_bad = Signal()
        start_bad = Signal()
        same_run = Signal()
        run_known = Signal()
        read_end = Signal(25)
        m.d.comb += read_end.eq(index + offset)
        m.d.sync += [
            is_reg.eq(region == Region.REG),
            write_bad.eq(
                (region == Region.REG)
                | (length < WRITE_HEADER)
                | ((length == WRITE_HEADER) & beyond)
                | (offset > last_byte)
                | outside
            ),
            read_bad.eq(
                ((region != Region.REG) & (region != Region.ACT))
                | (length != 6)
                | Mux(region == Region.REG, _above(read_end, len(Reg)), _above(read_end, config.act_bytes))
                | (offset > isa.MAX_PAYLOAD)  # all registers fit a reply
            ),
            start_bad.eq((length != 6) | (offset >= config.program_words)),
            same_run.eq(run_known & (arguments[:32] == self.run_id)),
        ]

        # The buffer's output is the byte `at` in every cycle.
        at = Signal(range(isa.MAX_PAYLOAD + 1))
        at_next = Signal.like(at)
        m.d.comb += at_next.eq(at)
        m.d.sync += at.eq(at_next)
        m.d.comb += [
            buffer_r.addr.eq(at_next),
            buffer_w.addr.eq(count),
            buffer_w.data.eq(self.i.payload),
        ]

        result = Signal(Result)
        reply_length = Signal(range(isa.MAX_PAYLOAD + 1))
        sent = Signal.like(reply_length)
        word = Signal(8 if compact else 32)
        latency = Signal(range(self._act_latency))

        if not compact:
            m.d.sync += self.w_en.eq(0)
        m.d.sync += self.start.eq(0)
        m.d.sync += self.reset_run.eq(0)
        m.d.comb += self.r_addr.eq(walk_index)

        received = Signal()
        replied = Signal()
        replying = Signal()
        m.d.comb += [
            received.eq(self.i.valid & self.i.ready),
            replied.eq(self.o.valid & self.o.ready),
            crc.data.eq(Mux(replying, self.o.payload, self.i.payload)),
        ]

        idle = Signal(range(self._timeout))
        partial = Signal()  # within a frame
        stalled = Signal()
        m.d.sync += idle.eq(Mux(partial & ~self.i.valid, idle + 1, 0))
        m.d.comb += stalled.eq(~self.i.valid & (idle == self._timeout - 1))

        with m.FSM():
            with m.State("SYNC"):
                m.d.comb += self.i.ready.eq(1)
                m.d.comb += crc.start.eq(1)
                m.d.sync += count.eq(0)
                m.d.sync += outside.eq(0)
                with m.If(received & (self.i.payload == isa.SYNC_HOST)):
                    m.next = "HEADER"

            with m.State("HEADER"):
                m.d.comb += [self.i.ready.eq(1), partial.eq(1), crc.valid.eq(received)]
                with m.If(received):
                    m.d.sync += count.eq(count + 1)
                    m.d.sync += Cat(command, sequence, length).eq(
                        Cat(command, sequence, length)[8:] | self.i.payload << 24
                    )
                    with m.If(count == 3):
                        m.d.sync += count.eq(0)
                        m.next = "PAYLOAD"
                        with m.If(Cat(length[8:], self.i.payload) == 0):
                            m.next = "CRC"
                with m.If(stalled):
                    m.next = "SYNC"

            with m.State("PAYLOAD"):
                m.d.comb += [self.i.ready.eq(1), partial.eq(1), crc.valid.eq(received)]
                m.d.comb += buffer_w.en.eq(received & (count < isa.MAX_PAYLOAD))
                with m.If(received):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count < WRITE_HEADER):
                        m.d.sync += head[count[:3]].eq(self.i.payload)
                        m.d.sync += walk_index.eq(index)
                        m.d.sync += walk_byte.eq(Cat(head[4], self.i.payload))
                    with m.Else():
                        m.d.comb += walk_step.eq(1)
                        with m.If(beyond):
                            m.d.sync += outside.eq(1)
                    with m.If(count + 1 == length):
                        m.d.sync += count.eq(0)
                        m.next = "CRC"
                with m.If(stalled):
                    m.next = "SYNC"

            with m.State("CRC"):
                m.d.comb += [self.i.ready.eq(1), partial.eq(1), crc.valid.eq(received)]
                with m.If(received):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == 3):
                        m.next = "EXECUTE"
                with m.If(stalled):
                    m.next = "SYNC"

            with m.State("EXECUTE"):
                m.d.comb += crc.start.eq(1)
                m.d.comb += at_next.eq(Mux(command == Command.WRITE, WRITE_HEADER, 0))
                m.d.sync += [
                    count.eq(0),
                    sent.eq(0),
                    reply_length.eq(0),
                    result.eq(Result.OK),
                    walk_index.eq(index),
                    walk_byte.eq(Mux(command == Command.WRITE, offset, 0)),
                ]
                m.next = "HEADER_OUT"
                with m.If(~crc.match_detected):
                    m.d.sync += result.eq(Result.BAD_CRC)
                with m.Elif(length > isa.MAX_PAYLOAD):
                    m.d.sync += result.eq(Result.BAD_RANGE)
                with m.Else():
                    with m.Switch(command):
                        with m.Case(Command.PING):
                            m.d.sync += reply_length.eq(length)
                        with m.Case(Command.WRITE):
                            with m.If(write_bad):
                                m.d.sync += result.eq(Result.BAD_RANGE)
                            with m.Elif(self.busy):
                                m.d.sync += result.eq(Result.BUSY)
                            with m.Elif(length != WRITE_HEADER):
                                m.next = "COMMIT"
                        with m.Case(Command.READ):
                            with m.If(read_bad):
                                m.d.sync += result.eq(Result.BAD_RANGE)
                            with m.Elif(self.busy & ~is_reg):
                                m.d.sync += result.eq(Result.BUSY)
                            with m.Else():
                                m.d.sync += reply_length.eq(Mux(is_reg, offset << 2, offset))
                        with m.Case(Command.START):
                            with m.If(start_bad):
                                m.d.sync += result.eq(Result.BAD_RANGE)
                            with m.Elif(same_run):
                                pass
                            with m.Elif(self.busy):
                                m.d.sync += result.eq(Result.BUSY)
                            with m.Else():
                                m.d.sync += [
                                    self.start.eq(1),
                                    self.start_pc.eq(offset),
                                    self.run_id.eq(arguments[:32]),
                                    run_known.eq(1),
                                ]
                        with m.Case(Command.RESET):
                            with m.If(length != 0):
                                m.d.sync += result.eq(Result.BAD_RANGE)
                            with m.Else():
                                m.d.sync += [self.reset_run.eq(1), self.run_id.eq(0), run_known.eq(0)]
                        with m.Default():
                            m.d.sync += result.eq(Result.BAD_COMMAND)

            with m.State("COMMIT"):
                m.d.comb += at_next.eq(at + 1)
                m.d.comb += walk_step.eq(1)
                domain = m.d.comb if compact else m.d.sync
                domain += [
                    self.w_en.eq(1),
                    self.w_region.eq(region),
                    self.w_index.eq(walk_index),
                    self.w_byte.eq(walk_byte),
                    self.w_data.eq(buffer_r.data),
                ]
                with m.If(at_next == length):
                    m.next = "HEADER_OUT"

            with m.State("HEADER_OUT"):
                m.d.comb += [
                    replying.eq(1),
                    self.o.valid.eq(1),
                    crc.valid.eq(replied & (count != 0)),
                ]
                with m.Switch(count):
                    with m.Case(0):
                        m.d.comb += self.o.payload.eq(isa.SYNC_DEVICE)
                    with m.Case(1):
                        m.d.comb += self.o.payload.eq(result)
                    with m.Case(2):
                        m.d.comb += self.o.payload.eq(sequence)
                    with m.Case(3):
                        m.d.comb += self.o.payload.eq(reply_length)
                    with m.Default():
                        m.d.comb += self.o.payload.eq(reply_length >> 8)
                with m.If(replied):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == 4):
                        m.d.sync += count.eq(0)
                        m.next = "FETCH"
                        with m.If(reply_length == 0):
                            m.next = "CRC_OUT"

            with m.State("FETCH"):
                m.d.sync += latency.eq(self._act_latency - 1)
                m.next = "DATA_OUT"
                with m.If(command == Command.PING):
                    m.d.sync += word.eq(buffer_r.data)
                    m.d.comb += at_next.eq(at + 1)
                with m.Elif(is_reg):
                    register = self.registers[walk_index[: len(Reg).bit_length()]]
                    if compact:
                        m.d.sync += word.eq(register.word_select(walk_byte[:2], 8))
                    else:
                        with m.If(walk_byte == 0):
                            m.d.sync += word.eq(register)
                with m.Else():
                    m.d.comb += self.r_en.eq(1)
                    m.next = "WAIT"

            with m.State("WAIT"):
                m.d.sync += latency.eq(latency - 1)
                with m.If(latency == 0):
                    m.d.sync += word.eq(self.r_data)
                    m.next = "DATA_OUT"

            with m.State("DATA_OUT"):
                m.d.comb += [
                    replying.eq(1),
                    self.o.valid.eq(1),
                    self.o.payload.eq(word),
                    crc.valid.eq(replied),
                    walk_step.eq(replied),
                ]
                with m.If(replied):
                    m.d.sync += word.eq(word >> 8)
                    m.d.sync += sent.eq(sent + 1)
                    m.next = "FETCH"
                    with m.If(sent + 1 == reply_length):
                        m.next = "CRC_OUT"

            with m.State("CRC_OUT"):
                m.d.comb += [
                    replying.eq(1),
                    self.o.valid.eq(1),
                    self.o.payload.eq(crc.crc.word_select(count[:2], 8)),
                ]
                with m.If(replied):
                    m.d.sync += count.eq(count + 1)
                    with m.If(count == 3):
                        m.next = "SYNC"

        return m
