"""What the suite of real clients shares: programs, engines, images and a relay that listens in."""
