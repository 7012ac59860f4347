"""What the commands print and draw: check, bench, profile, sim."""
