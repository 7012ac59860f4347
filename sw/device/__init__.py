"""Driver of a device, and the transports to it: a serial port, the simulated RTL."""
