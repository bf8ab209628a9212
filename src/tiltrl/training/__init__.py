"""Training: the one loop, and what surrounds it on disk."""
