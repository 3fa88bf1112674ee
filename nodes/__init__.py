"""What the artist sees: one file of nodes per method."""
