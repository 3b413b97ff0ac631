"""`python -m urisk_nb` is `urisk`: for notebooks and jobs whose PATH does not have the command."""

from urisk_nb.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
