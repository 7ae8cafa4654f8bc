"""`python -m lookahead` runs the command `lookahead`."""

from lookahead.cli import main

if __name__ == "__main__":
    main()
