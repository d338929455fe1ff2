"""`ldm sample` from a checkout: python sample.py run=DIR prompt="a large blue star at the bottom on a black background" n=16"""

import sys

from ldm.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
