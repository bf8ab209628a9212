"""Critics: each learns `Q(s, a)` from logged transitions, without asking about actions outside the data."""
