"""`python -m zeroloop` is the `zeroloop` command."""

from .cli import main

main()
