"""The stages of a run, each a configuration and a function that trains."""
