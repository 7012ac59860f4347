"""Cells of Gowin's GW2A that a synthesizer does not use well by itself."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Signal

_REGISTERS = ("AREG", "BREG", "ASIGN_REG", "BSIGN_REG", "OUT_REG")


def multiplier(left, right, product: Signal) -> Instance:
    """`MULT9X9` with its input and output registers on: `product` (18 bits) is left * right two cycles ago.

    `left` and `right` are signed, of up to 9 bits.
    """

    def port(value):
        return Cat(value, *[value[len(value) - 1]] * (9 - len(value)))

    return Instance(
        "MULT9X9",
        **{f"p_{name}": Const(1, 1) for name in _REGISTERS},
        p_PIPE_REG=Const(0, 1),
        p_SOA_REG=Const(0, 1),
        p_MULT_RESET_MODE="SYNC",
        i_A=port(left),
        i_B=port(right),
        i_ASIGN=Const(1, 1),
        i_BSIGN=Const(1, 1),
        i_SIA=Const(0, 9),
        i_SIB=Const(0, 9),
        i_ASEL=Const(0, 1),
        i_BSEL=Const(0, 1),
        i_CE=Const(1, 1),
        i_CLK=ClockSignal("sync"),
        i_RESET=Const(0, 1),
        o_DOUT=product,
    )
