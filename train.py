"""The command line: ``python train.py stage=teacher|student|distill|report``; see ``--help``."""

from kd.__main__ import main

if __name__ == "__main__":
    main()
