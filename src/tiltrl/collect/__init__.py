"""Data sets made here: scripted controllers, saved policies and random actions, recorded in Minari's format."""
