"""`ray job submit ... -- python jobs/simulate.py ARGUMENTS`: the verb `raycadian simulate` as a job."""

import sys

from raycadian.cli.main import main

if __name__ == "__main__":
    main(["simulate", *sys.argv[1:]])
