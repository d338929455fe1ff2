"""`ldm evaluate` from a checkout: python evaluate.py run=DIR samples=2048 guidance=3"""

import sys

from ldm.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
