"""What hardware and software agree on: configuration, instruction set, registers, codecs. Needs no Amaranth."""
