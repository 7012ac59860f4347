"""What Verilator warns of in generated Verilog, and why each is of no concern."""

WAIVED = {
    "CASEINCOMPLETE": "yosys writes a case that keeps a value without saying so",
    "CASEOVERLAP": "the first match counts, as in Amaranth's Switch",
    "WIDTHEXPAND": "operands are extended by the language's rules",
    "WIDTHTRUNC": "sums are cut to the width of what they are assigned to",
    "UNSIGNED": "comparisons that a configuration makes constant",
    "CMPCONST": "comparisons that a configuration makes constant",
    "UNOPTFLAT": "parts of one vector depend on others of it, no bit on itself",
}
"""Of what is shipped: the .vlt beside it says so."""


def no_warnings(*more: str) -> list[str]:
    """Verilator's options against these, and against `more`, which only our own simulators meet."""
    return [f"-Wno-{rule}" for rule in (*WAIVED, *more)]
