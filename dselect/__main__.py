"""`python -m dselect` is the same program as `dselect`."""

from dselect.cli import main

if __name__ == "__main__":
    main()
