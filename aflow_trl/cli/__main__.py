"""`python -m aflow_trl.cli`."""

from .main import main

main()
