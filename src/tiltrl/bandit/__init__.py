"""Two-dimensional bandits, where the truth is known: the paper's Figures 3, 7 and 8 as pictures and numbers."""
