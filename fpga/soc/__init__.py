"""A whole system: a RISC-V, the accelerator on its bus, memory and a UART (`make soc`)."""
