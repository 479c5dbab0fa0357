"""`python -m jobstatus` is the command `jobstatus`."""

from jobstatus.cli import main

if __name__ == "__main__":
    main()
