"""`tiltrl experiment`: the paper's experiments as grids of commands, their tables and figures."""
