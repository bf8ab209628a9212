"""How fast this machine does what a run does: work by count, rates by the clock, and the distance between the two."""
