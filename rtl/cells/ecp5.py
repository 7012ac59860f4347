"""Cells of the ECP5 that a synthesizer does not use well by itself."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class GatedAdder(wiring.Component):
    """Carry chain with two AND gates in front of each bit: half the tables of gates and an adder apart.

    Members: ``a``, ``c`` In(bits); ``b``, ``d`` In(1) · ``o`` Out(bits): (d ? c : 0) + (b ? a : 0), with `subtract`
    (d ? c : 0) - (b ? a : 0), modulo 2**bits. Combinational.
    """

    def __init__(self, bits: int, subtract: bool = False):
        self._bits = bits
        self._subtract = subtract
        super().__init__({"a": In(bits), "b": In(1), "c": In(bits), "d": In(1), "o": Out(bits)})

    def elaborate(self, platform):
        m = Module()
        # A cell's table says whether a carry passes: (a & b) ^ (c & d), with the first inverted to subtract. When none
        # passes, the same table with c = d = 0, the first operand, is the carry.
        flip = int(self._subtract)
        table = sum((((k & 3) == 3) ^ flip ^ ((k >> 2) == 3)) << k for k in range(16))
        carry = Const(flip, 1)
        outs = []
        for low in range(0, self._bits, 2):
            ports: dict[str, Value] = {}
            sums = Signal(2, name=f"sum_{low}")
            after = Signal(name=f"carry_{low}")
            for half in range(2):
                there = low + half < self._bits
                ports |= {
                    f"i_A{half}": self.a[low + half] if there else Const(0, 1),
                    f"i_B{half}": self.b,
                    f"i_C{half}": self.c[low + half] if there else Const(0, 1),
                    f"i_D{half}": self.d,
                    f"o_S{half}": sums[half],
                }
            m.submodules[f"cell_{low}"] = Instance(
                "CCU2C",
                p_INIT0=Const(table, 16),
                p_INIT1=Const(table, 16),
                p_INJECT1_0="NO",
                p_INJECT1_1="NO",
                i_CIN=carry,
                o_COUT=after,
                **ports,
            )
            carry = after
            outs.append(sums)
        m.d.comb += self.o.eq(Cat(*outs))
        return m


def multiplier(left, right, product: Signal) -> Instance:
    """`MULT18X18D` with its input and output registers on: `product` (36 bits) is left * right two cycles ago.

    `left` and `right` have up to 18 bits, each signed or not.
    """
    ports = {}
    for port, value in (("A", left), ("B", right)):
        signed = value.shape().signed
        top = value[len(value) - 1] if signed else Const(0, 1)
        for bit in range(18):
            ports[f"i_{port}{bit}"] = value[bit] if bit < len(value) else top
        ports[f"i_SIGNED{port}"] = int(signed)
        ports[f"i_SOURCE{port}"] = 0
    for bit in range(36):
        ports[f"o_P{bit}"] = product[bit]
    registers: dict[str, str] = {}
    for register in ("INPUTA", "INPUTB", "OUTPUT"):
        registers |= {
            f"p_REG_{register}_CLK": "CLK0",
            f"p_REG_{register}_CE": "CE0",
            f"p_REG_{register}_RST": "RST0",
        }
    return Instance("MULT18X18D", i_CLK0=ClockSignal("sync"), i_CE0=1, i_RST0=0, **registers, **ports)
