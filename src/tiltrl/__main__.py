"""`python -m tiltrl`."""

from tiltrl.main import main

main()
