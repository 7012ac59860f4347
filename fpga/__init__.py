"""Board files and bitstream builds."""
