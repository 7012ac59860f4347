"""Boards on serial ports: a transport through pyserial, and connecting with errors that say what to do."""

import sys

import serial
from serial.tools import list_ports

from lepton.sw.device.link import Device, LinkError

BAUD = 1_000_000
"""What the boards of this project speak unless told otherwise."""


class SerialTransport:
    """Transport over a serial port. All its errors are OSError. Raises LinkError when the port cannot be opened."""

    def __init__(self, port: str, baud: int = BAUD):
        self._gone: tuple = (OSError, TypeError)  # closing in another thread makes pyserial raise TypeError
        if sys.platform != "win32":
            import termios

            self._gone += (termios.error,)
        try:
            self._port = serial.Serial(port, baud, timeout=0, write_timeout=10, exclusive=True)
        except ValueError as error:
            raise LinkError(f"serial port {port}: {error}") from None
        except self._gone as error:
            raise LinkError(_why(port, baud, error)) from None
        try:
            self._port.set_low_latency_mode(True)  # else an FTDI chip keeps every short reply for 16 ms
        except (AttributeError, NotImplementedError, ValueError, *self._gone):
            pass  # a system or a port (a pty) without the mode: it works, only later

    def _call(self, function, *arguments):
        try:
            return function(*arguments)
        except serial.SerialTimeoutException:
            raise OSError("the port takes no more bytes") from None
        except self._gone as error:
            raise OSError(str(error) or "the port is gone") from None

    def write(self, data: bytes) -> None:
        self._call(self._port.write, data)

    def read(self, n: int, timeout: float) -> bytes:
        return self._call(self._read, n, timeout)

    def _read(self, n, timeout):
        self._port.timeout = max(timeout, 0)
        return self._port.read(n)

    def flush(self) -> None:
        self._call(self._port.reset_input_buffer)

    def close(self) -> None:
        try:
            self._call(self._port.close)
        except OSError:  # it is gone already
            pass


def _why(port, baud, error) -> str:
    number = getattr(error, "errno", None) or next(iter(getattr(error.__context__, "args", ())), None)
    if number == 2 or isinstance(error, FileNotFoundError):
        there = ", ".join(name for name, _ in ports()) or "none"
        return f"serial port {port}: no such port; there are: {there}"
    if number == 13:
        return f"serial port {port}: no permission: add yourself to the group that owns it (often dialout) and log in"
    if number in (11, 16):
        return f"serial port {port}: in use by another program: close it"
    if number == 25:
        return f"serial port {port}: is not a serial port"
    return f"serial port {port}: cannot be opened at {baud} baud ({error})"


def ports() -> list[tuple[str, str]]:
    """Serial ports of this computer: name and description."""
    return sorted((p.device, p.description if p.description != "n/a" else "") for p in list_ports.comports())


def connect(port: str, baud: int = BAUD) -> Device:
    """The Lepton device on a serial port, its run stopped. Raises LinkError in one line if there is none."""
    transport = SerialTransport(port, baud)
    probe = Device(transport, timeout=0.5, retries=2)
    try:
        probe.config()
        probe.reset()
    except LinkError as error:
        transport.close()
        message = str(error)
        if error.silence:
            message = (
                f"no Lepton device answers at {baud} baud ({error.silence}): check the port (`lepton devices`), "
                "the baud rate and that the board has its bitstream (`lepton fpga program BOARD`)"
            )
        raise LinkError(f"{port}: {message}", error.result, error.silence) from None
    return Device(transport)
