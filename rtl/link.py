"""The host link: framed, CRC-checked requests on a byte stream, carried out on memories and registers."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.layouts import BYTE
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.frames import READ, WRITE_HEADER, start
from lepton.rtl.spec.isa import Command, Region, Result


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


class _Frame:
    """What the link knows of the frame it receives and of its reply, and the units it shows their bytes."""

    def __init__(self, m, word_bits: int, act_latency: int, index_bits: int):
        m.submodules.crc = self.crc = CRC32_ISO_HDLC(data_width=8).create()
        m.submodules.buffer = buffer = memory.Memory(shape=8, depth=isa.MAX_PAYLOAD, init=[], attrs={"no_rw_check": 1})
        self.buffer_w, self.buffer_r = buffer.write_port(), buffer.read_port()

        # Header, count of bytes received (or sent) in the present part, first bytes of the payload.
        self.command, self.sequence = Signal(8, name="command"), Signal(8, name="sequence")
        self.length, self.count = Signal(16, name="length"), Signal(16, name="count")
        self.head = head = Signal(data.ArrayLayout(8, WRITE_HEADER), name="head")
        self.region = head[0]
        self.index = Cat(head[1], head[2], head[3])
        self.offset = Cat(head[4], head[5])  # WRITE: byte in the word; READ: words; START: first program word
        self.arguments = head.as_value()
        # The walk over the range of a WRITE, twice, as it arrives (to check) and to commit; and the range of a READ.
        self.walk_index, self.walk_byte = Signal(index_bits, name="walk_index"), Signal(BYTE, name="walk_byte")
        self.walk_step = Signal()
        self.last_byte = Signal(BYTE)  # of the region's words
        self.outside = Signal()  # some word walked over was not in the region
        self.beyond = Signal()  # walk_index is not a word of the region
        # Verdicts on the arguments.
        self.is_reg, self.write_bad, self.read_bad, self.start_bad, self.same_run, self.run_known = (
            Signal(name=name) for name in "is_reg write_bad read_bad start_bad same_run run_known".split()
        )
        # The buffer's output is the byte `at` in every cycle.
        self.at = Signal(range(isa.MAX_PAYLOAD + 1))
        self.at_next = Signal.like(self.at, name="at_next")
        # The reply.
        self.result = Signal(Result)
        self.reply_length = Signal(range(isa.MAX_PAYLOAD + 1))
        self.sent = Signal.like(self.reply_length, name="sent")
        self.word = Signal(word_bits)
        self.latency = Signal(range(act_latency))
        self.received, self.replied, self.replying = (Signal(name=name) for name in ("received", "replied", "replying"))
        self.partial = Signal()  # within a frame
        self.stalled = Signal()  # and no byte has come for too long


class Link(wiring.Component):
    """Serve one request frame at a time; nothing takes effect before the frame's CRC is right.

    Parameters: ``config``; ``act_latency``, cycles from ``r_en`` to ``r_data`` (at least 1); ``timeout``, cycles
    without a byte after which a partial frame is dropped (no reply).

    Members:
        ``i`` Stream(8) request bytes, refused while a request is carried out or answered · ``o`` Stream(8) reply bytes
        ``write`` `ports.host_write`: a byte a cycle, only after the whole range was found to fit
        ``read`` `ports.activation_read` of a byte, one at a time, ``addr`` held till the data
        ``registers`` words of 32 bits, `isa.registers`: what READ of REG returns; a word is captured in one cycle
        ``run`` `ports.run_request`; ``id`` is 0 after RESET

    Answers: BAD_CRC, with the sequence received; then BAD_RANGE for a payload over MAX_PAYLOAD, which is swallowed
    whole, or of the wrong length, or a range or first program word outside its memory; BAD_COMMAND; BUSY for WRITE,
    READ of ACT and a new START while ``run.busy``.
    Latency: the first strobe or reply byte comes 2 cycles after the request's last byte was taken; a WRITE of n bytes
    commits in n cycles. Reply data: a byte every 2 cycles, of activation memory every ``act_latency`` + 2.
    Reset: drops a partial frame, a reply and the run id.
    """

    def __init__(self, config: NpuConfig, act_latency: int, timeout: int = timing.LINK_TIMEOUT):
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
                "write": Out(ports.host_write()),
                "read": Out(ports.activation_read(8)),
                "registers": In(data.ArrayLayout(32, len(isa.registers(config)))),
                "run": Out(ports.run_request(config)),
                **self._members(),
            }
        )

    OUTSIDE = "i", "o"
    """Members that are the machine's."""
    WORD = 32
    """Bits of a register held for the reply."""
    WALK = 24
    """Bits of a word's index."""
    WRITES = "sync"
    """Domain of the write strobes: the memories are far."""

    def _members(self) -> dict:
        """Members of a machine's own."""
        return {}

    def elaborate(self, platform):
        m = Module()
        f = _Frame(m, self.WORD, self._act_latency, self.WALK)
        idle = Signal(range(self._timeout))
        m.d.sync += [
            f.at.eq(f.at_next),
            idle.eq(Mux(f.partial & ~self.i.valid, idle + 1, 0)),
            self.run.start.eq(0),
            self.run.reset.eq(0),
        ]
        m.d[self.WRITES] += self.write.en.eq(0)
        m.d.comb += [
            f.at_next.eq(f.at),
            f.buffer_r.addr.eq(f.at_next),
            f.buffer_w.addr.eq(f.count),
            f.buffer_w.data.eq(self.i.payload),
            f.received.eq(self.i.valid & self.i.ready),
            f.replied.eq(self.o.valid & self.o.ready),
            f.crc.data.eq(Mux(f.replying, self.o.payload, self.i.payload)),
            f.stalled.eq(~self.i.valid & (idle == self._timeout - 1)),
            self.read.addr.eq(f.walk_index),
        ]
        self._walk(m, f)
        self._judge(m, f)
        with m.FSM():
            self._receive(m, f)
            self._execute(m, f)
            self._commit(m, f)
            self._reply_header(m, f)
            self._reply_data(m, f)
        return m

    def _walk(self, m, f):
        """The bytes of a range, over the words of its region."""
        with m.Switch(f.region):
            for r in isa.regions(self._config):
                with m.Case(r):  # a cycle after the region, used cycles later
                    m.d.sync += f.last_byte.eq(isa.word_bytes(r, self._config) - 1)
        with m.Switch(f.region):
            for r in isa.regions(self._config):
                with m.Case(r):
                    m.d.comb += f.beyond.eq(self._beyond(f, r))
            with m.Default():
                m.d.comb += f.beyond.eq(1)
        with m.If(f.walk_step):
            m.d.sync += f.walk_byte.eq(f.walk_byte + 1)
            with m.If(f.walk_byte == f.last_byte):
                m.d.sync += f.walk_byte.eq(0)
                m.d.sync += f.walk_index.eq(f.walk_index + 1)

    def _beyond(self, f, region):
        """The word walked over is not one of the region's that are written."""
        return _at_least(f.walk_index, isa.depth(region, self._config))

    def _unwritable(self, f):
        """The region has no word that is written."""
        return f.region == Region.REG

    def _unreadable(self, f):
        """The region cannot be read."""
        return (f.region != Region.REG) & (f.region != Region.ACT)

    def _too_far(self, f, read_end):
        """A READ reaches beyond its region."""
        depths = (isa.depth(region, self._config) for region in (Region.REG, Region.ACT))
        return Mux(f.region == Region.REG, *(_above(read_end, depth) for depth in depths))

    def _bad_pc(self, f):
        """START names a word outside the program memory."""
        return f.offset >= self._config.program_words

    def _pc(self, f):
        """START's word, if it is not bad."""
        return f.offset

    def _after_head(self, m, f):
        """A byte of the payload behind the first WRITE_HEADER."""

    def _reply_bytes(self, f):
        """Of a READ's answer."""
        return Mux(f.is_reg, f.offset << 2, f.offset)

    def _refused(self, f):
        """A WRITE, or a READ of anything but registers, cannot be carried out now."""
        return self.run.busy

    def _judge(self, m, f):
        """Verdicts on the arguments, settled before the CRC has arrived."""
        read_end = Signal(25)
        m.d.comb += read_end.eq(f.index + f.offset)
        m.d.sync += [
            f.is_reg.eq(f.region == Region.REG),
            f.write_bad.eq(
                self._unwritable(f)
                | (f.length < WRITE_HEADER)
                | ((f.length == WRITE_HEADER) & f.beyond)
                | (f.offset > f.last_byte)
                | f.outside
            ),
            f.read_bad.eq(
                self._unreadable(f)
                | (f.length != READ.size)
                | self._too_far(f, read_end)
                | (f.offset > isa.MAX_PAYLOAD)  # all registers fit a reply
            ),
            f.start_bad.eq((f.length != start(self._config).size) | self._bad_pc(f)),
            f.same_run.eq(f.run_known & (f.arguments[:32] == self.run.id)),
        ]

    # --- The receiver ---
    def _receive(self, m, f):
        """A frame's bytes; what stops coming is dropped."""
        with m.State("SYNC"):
            m.d.comb += self.i.ready.eq(1)
            m.d.comb += f.crc.start.eq(1)
            m.d.sync += f.count.eq(0)
            m.d.sync += f.outside.eq(0)
            with m.If(f.received & (self.i.payload == isa.SYNC_HOST)):
                m.next = "HEADER"

        with m.State("HEADER"):
            m.d.comb += [self.i.ready.eq(1), f.partial.eq(1), f.crc.valid.eq(f.received)]
            with m.If(f.received):
                m.d.sync += f.count.eq(f.count + 1)
                m.d.sync += Cat(f.command, f.sequence, f.length).eq(
                    Cat(f.command, f.sequence, f.length)[8:] | self.i.payload << 24
                )
                with m.If(f.count == 3):
                    m.d.sync += f.count.eq(0)
                    m.next = "PAYLOAD"
                    with m.If(Cat(f.length[8:], self.i.payload) == 0):
                        m.next = "CRC"
            with m.If(f.stalled):
                m.next = "SYNC"

        with m.State("PAYLOAD"):
            m.d.comb += [self.i.ready.eq(1), f.partial.eq(1), f.crc.valid.eq(f.received)]
            m.d.comb += f.buffer_w.en.eq(f.received & (f.count < isa.MAX_PAYLOAD))
            with m.If(f.received):
                m.d.sync += f.count.eq(f.count + 1)
                with m.If(f.count < WRITE_HEADER):
                    m.d.sync += f.head[f.count[:3]].eq(self.i.payload)
                    m.d.sync += f.walk_index.eq(f.index)
                    m.d.sync += f.walk_byte.eq(Cat(f.head[4], self.i.payload))
                with m.Else():
                    m.d.comb += f.walk_step.eq(1)
                    self._after_head(m, f)
                    with m.If(f.beyond):
                        m.d.sync += f.outside.eq(1)
                with m.If(f.count + 1 == f.length):
                    m.d.sync += f.count.eq(0)
                    m.next = "CRC"
            with m.If(f.stalled):
                m.next = "SYNC"

        with m.State("CRC"):
            m.d.comb += [self.i.ready.eq(1), f.partial.eq(1), f.crc.valid.eq(f.received)]
            with m.If(f.received):
                m.d.sync += f.count.eq(f.count + 1)
                with m.If(f.count == 3):
                    m.next = "EXECUTE"
            with m.If(f.stalled):
                m.next = "SYNC"

    # --- The commands ---
    def _execute(self, m, f):
        """The verdict on a frame, and what it starts."""
        with m.State("EXECUTE"):
            m.d.comb += f.crc.start.eq(1)
            m.d.comb += f.at_next.eq(Mux(f.command == Command.WRITE, WRITE_HEADER, 0))
            m.d.sync += [
                f.count.eq(0),
                f.sent.eq(0),
                f.reply_length.eq(0),
                f.result.eq(Result.OK),
                f.walk_index.eq(f.index),
                f.walk_byte.eq(Mux(f.command == Command.WRITE, f.offset, 0)),
            ]
            m.next = "HEADER_OUT"
            with m.If(~f.crc.match_detected):
                m.d.sync += f.result.eq(Result.BAD_CRC)
            with m.Elif(f.length > isa.MAX_PAYLOAD):
                m.d.sync += f.result.eq(Result.BAD_RANGE)
            with m.Else():
                with m.Switch(f.command):
                    with m.Case(Command.PING):
                        m.d.sync += f.reply_length.eq(f.length)
                    with m.Case(Command.WRITE):
                        with m.If(f.write_bad):
                            m.d.sync += f.result.eq(Result.BAD_RANGE)
                        with m.Elif(self._refused(f)):
                            m.d.sync += f.result.eq(Result.BUSY)
                        with m.Elif(f.length != WRITE_HEADER):
                            m.next = "COMMIT"
                    with m.Case(Command.READ):
                        with m.If(f.read_bad):
                            m.d.sync += f.result.eq(Result.BAD_RANGE)
                        with m.Elif(self._refused(f) & ~f.is_reg):
                            m.d.sync += f.result.eq(Result.BUSY)
                        with m.Else():
                            m.d.sync += f.reply_length.eq(self._reply_bytes(f))
                    with m.Case(Command.START):
                        with m.If(f.start_bad):
                            m.d.sync += f.result.eq(Result.BAD_RANGE)
                        with m.Elif(f.same_run):
                            pass
                        with m.Elif(self.run.busy):
                            m.d.sync += f.result.eq(Result.BUSY)
                        with m.Else():
                            m.d.sync += [
                                self.run.start.eq(1),
                                self.run.pc.eq(self._pc(f)),
                                self.run.id.eq(f.arguments[:32]),
                                f.run_known.eq(1),
                            ]
                    with m.Case(Command.RESET):
                        with m.If(f.length != 0):
                            m.d.sync += f.result.eq(Result.BAD_RANGE)
                        with m.Else():
                            m.d.sync += [self.run.reset.eq(1), self.run.id.eq(0), f.run_known.eq(0)]
                    with m.Default():
                        m.d.sync += f.result.eq(Result.BAD_COMMAND)

    def _commit(self, m, f):
        with m.State("COMMIT"):
            self._step(m, f)

    def _step(self, m, f):
        """A byte of a WRITE to its memory."""
        m.d.comb += [f.at_next.eq(f.at + 1), f.walk_step.eq(1)]
        with m.If(f.at_next == f.length):
            m.next = "HEADER_OUT"
        m.d[self.WRITES] += [
            self.write.en.eq(1),
            self.write.region.eq(f.region),
            self.write.index.eq(f.walk_index),
            self.write.byte.eq(f.walk_byte),
            self.write.data.eq(f.buffer_r.data),
        ]

    # --- The reply ---
    def _reply_header(self, m, f):
        with m.State("HEADER_OUT"):
            m.d.comb += [
                f.replying.eq(1),
                self.o.valid.eq(1),
                f.crc.valid.eq(f.replied & (f.count != 0)),
            ]
            with m.Switch(f.count):
                with m.Case(0):
                    m.d.comb += self.o.payload.eq(isa.SYNC_DEVICE)
                with m.Case(1):
                    m.d.comb += self.o.payload.eq(f.result)
                with m.Case(2):
                    m.d.comb += self.o.payload.eq(f.sequence)
                with m.Case(3):
                    m.d.comb += self.o.payload.eq(f.reply_length)
                with m.Default():
                    m.d.comb += self.o.payload.eq(f.reply_length >> 8)
            with m.If(f.replied):
                m.d.sync += f.count.eq(f.count + 1)
                with m.If(f.count == 4):
                    m.d.sync += f.count.eq(0)
                    m.next = "FETCH"
                    with m.If(f.reply_length == 0):
                        m.next = "CRC_OUT"

    def _reply_data(self, m, f):
        """The payload: of a PING from the buffer, registers, or activations; then the CRC."""
        with m.State("FETCH"):
            m.d.sync += f.latency.eq(self._act_latency - 1)
            m.next = "DATA_OUT"
            with m.If(f.command == Command.PING):
                m.d.sync += f.word.eq(f.buffer_r.data)
                m.d.comb += f.at_next.eq(f.at + 1)
            with m.Elif(f.is_reg):
                self._register(m, f, self.registers[f.walk_index[: len(self.registers).bit_length()]])
            with m.Else():
                self._fetch(m, f)

        with m.State("WAIT"):
            m.d.sync += f.latency.eq(f.latency - 1)
            with m.If(f.latency == 0):
                m.d.sync += f.word.eq(self.read.data)
                m.next = "DATA_OUT"

        with m.State("DATA_OUT"):
            m.d.comb += [
                f.replying.eq(1),
                self.o.valid.eq(1),
                self.o.payload.eq(f.word),
                f.crc.valid.eq(f.replied),
                f.walk_step.eq(f.replied),
            ]
            with m.If(f.replied):
                m.d.sync += f.word.eq(f.word >> 8)
                m.d.sync += f.sent.eq(f.sent + 1)
                m.next = "FETCH"
                with m.If(f.sent + 1 == f.reply_length):
                    m.next = "CRC_OUT"

        with m.State("CRC_OUT"):
            m.d.comb += [
                f.replying.eq(1),
                self.o.valid.eq(1),
                self.o.payload.eq(f.crc.crc.word_select(f.count[:2], 8)),
            ]
            with m.If(f.replied):
                m.d.sync += f.count.eq(f.count + 1)
                with m.If(f.count == 3):
                    m.next = "SYNC"

    def _fetch(self, m, f):
        """A byte that is neither a PING's nor a register's."""
        m.d.comb += self.read.en.eq(1)
        m.next = "WAIT"

    def _register(self, m, f, register):
        """Bytes of a register: captured in one cycle, with the first."""
        with m.If(f.walk_byte == 0):
            m.d.sync += f.word.eq(register)
