"""Host link of the compact machine: without the registers that long ways need."""

from lepton.rtl.link import Link


class CompactLink(Link):
    """`Link` whose strobes come a cycle earlier, and whose registers are read byte by byte: one that changes meanwhile
    may be torn."""

    WORD = 8
    WRITES = "comb"

    def _register(self, m, f, register):
        m.d.sync += f.word.eq(register.word_select(f.walk_byte[:2], 8))
