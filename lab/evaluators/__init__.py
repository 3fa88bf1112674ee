"""Networks and measures that judge images of the mini world."""
