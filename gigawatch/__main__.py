"""`python -m gigawatch` is the command `gigawatch`."""

from gigawatch.cli import main

main(prog_name="gigawatch")
