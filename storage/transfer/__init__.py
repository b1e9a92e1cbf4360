"""Images on their way in and out: what other tools wrote, read and checked; and what other tools can read."""
