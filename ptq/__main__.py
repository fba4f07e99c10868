"""`python -m ptq`."""

from ptq.cli.commands import main

main()
