"""A board without a board: the RTL of `BoardTop`, UART pins and all, behind a pseudo terminal.

`python -m lepton.fpga.board_sim --config tiny` prints a port that `lepton run --backend serial:PORT` can open.
"""

import argparse
import ctypes
import os
import select
import threading
import tty

import numpy as np

from lepton.fpga.top import BoardTop
from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.rtl.verilog import to_verilog
from lepton.sw.device.verilated import build_library


class PinModel:
    """A Verilator model with bytes at the host's end of a UART, from Verilog with a module `npu` and the ports of
    `BoardTop`. `divisor`: cycles a bit; `pulses`: how often ``clk`` rises in a cycle.
    """

    def __init__(self, text: str, name: str, divisor: int, pulses: int = 1):
        library = ctypes.CDLL(str(build_library(text, name)))
        u64, pointer = ctypes.c_uint64, ctypes.c_void_p
        library.sim_create.argtypes, library.sim_create.restype = [ctypes.c_uint32] * 2, pointer
        library.sim_destroy.argtypes = library.sim_reset.argtypes = [pointer]
        library.sim_cycles.argtypes, library.sim_cycles.restype = [pointer], u64
        library.sim_leds.argtypes, library.sim_leds.restype = [pointer], ctypes.c_uint32
        library.sim_run.argtypes = [pointer, ctypes.c_char_p, u64, pointer, u64, u64, pointer]
        self._library, self._clock = library, (divisor, pulses)
        self._sim = library.sim_create(*self._clock)

    def run(self, data: bytes = b"", cycles: int = 4000) -> tuple[int, bytes]:
        """Let the clock run for `cycles`, fewer when a reply has ended. Returns bytes sent, bytes received."""
        got, counts = np.empty(4096, np.uint8), (ctypes.c_uint64 * 2)()
        self._library.sim_run(self._sim, data, len(data), got.ctypes.data, len(got), cycles, counts)
        return counts[0], got[: counts[1]].tobytes()

    def reset(self) -> None:
        """Press the reset button."""
        self._library.sim_reset(self._sim)

    def power_cycle(self) -> None:
        """Take the power away and give it back: all memories are as the bitstream leaves them."""
        self._library.sim_destroy(self._sim)
        self._sim = self._library.sim_create(*self._clock)

    @property
    def cycles(self) -> int:
        return self._library.sim_cycles(self._sim)

    @property
    def leds(self) -> int:
        return self._library.sim_leds(self._sim)

    def __del__(self):
        if getattr(self, "_sim", None):
            self._library.sim_destroy(self._sim)
            self._sim = None


class BoardModel(PinModel):
    """`PinModel` of the RTL of `BoardTop`."""

    def __init__(self, config: NpuConfig, divisor: int = 4):
        super().__init__(to_verilog(BoardTop(config, clock_hz=divisor, baud=1)), f"board-{config.name}", divisor)


class PtyBoard:
    """Something at the other end of a serial port: a thread that moves bytes between a pty and `model.run`.

    Members: `port`, the name to open; `to_device`, `to_host`: functions from bytes to bytes that a test may set to
    spoil them, or None; when one returns None the cable is pulled. `unplug()` takes the port away, `plug()` gives a new
    one; the model keeps its state.
    """

    def __init__(self, model):
        self.model = model
        self.to_device = self.to_host = None
        self._lock = threading.RLock()
        self._stop = False
        self._master = None
        self.plug()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def plug(self) -> str:
        """Give a new port; returns its name."""
        master, slave = os.openpty()
        tty.setraw(slave)
        self.port = os.ttyname(slave)
        os.set_blocking(master, False)
        with self._lock:
            self._master, self._slave = master, slave
        return self.port

    def unplug(self) -> None:
        """Take the port away, as when the cable is pulled."""
        with self._lock:
            if self._master is not None:
                os.close(self._master)
                os.close(self._slave)
            self._master = None

    def reset(self) -> None:
        """Press the reset button."""
        with self._lock:
            self.model.reset()

    def power_cycle(self) -> None:
        with self._lock:
            self.model.power_cycle()

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self.unplug()

    def _serve(self):
        pending, spare = b"", b""
        while not self._stop:
            with self._lock:
                master = self._master
                if master is None:
                    pending = spare = b""
                else:
                    idle = not (pending or spare or self.model.leds & 1)
                    if len(pending) < 4096 and select.select([master], [], [], 0.001 if idle else 0)[0]:
                        got = os.read(master, 4096)
                        got = self.to_device(got) if self.to_device else got
                        if got is None:
                            self.unplug()
                            continue
                        pending += got
                sent, reply = self.model.run(pending)
                pending = pending[sent:]
                if master is not None:
                    reply = self.to_host(reply) if self.to_host and reply else reply
                    if reply is None:
                        self.unplug()
                        continue
                    spare += reply
                    try:
                        spare = spare[os.write(master, spare) :] if spare else b""
                    except BlockingIOError:  # nobody reads
                        spare = spare[-4096:]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lepton.fpga.board_sim", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny", metavar="NAME")
    parser.add_argument("--divisor", type=int, default=4, help="cycles a bit of the UART (default: %(default)s)")
    args = parser.parse_args()
    config = get_config(args.config)
    if config.ring_tiles and not config.external_bytes:
        config = NpuConfig.from_dict(config.to_dict() | {"ring_tiles": 0})
    board = PtyBoard(BoardModel(config, args.divisor))
    print(board.port, flush=True)
    try:
        board._thread.join()
    except KeyboardInterrupt:
        board.close()


if __name__ == "__main__":
    main()
