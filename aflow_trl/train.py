"""
Train a policy: compose workflows, improve a given one, or plain reasoning, as `task` of the recipe says.

    accelerate launch -m aflow_trl.train RECIPE [--key value ...]
"""

from .cli.train import EXIT_STOPPED, main

__all__ = ["EXIT_STOPPED", "main"]

if __name__ == "__main__":
    main()
