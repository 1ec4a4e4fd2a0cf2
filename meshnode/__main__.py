"""`python -m meshnode`."""

from meshnode.cli.main import run

if __name__ == "__main__":
    run()
