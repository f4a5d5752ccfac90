"""`python -m build_backend`: compile the modules that have two forms, in the working directory."""

import sys
from pathlib import Path

from build_backend.compiled import compile_all
from build_backend.hooks import packages_of

if __name__ == "__main__":
    root = Path.cwd()
    for module in compile_all(root, packages_of(root)):
        sys.stdout.write(f"compiled {module}\n")
