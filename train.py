"""`ldm train` from a checkout: python train.py experiment=shapes"""

import sys

from ldm.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
