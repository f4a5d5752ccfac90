"""`python -m client` is `tradechat-cli`."""

import sys

from client.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
