"""`ray job submit ... -- python jobs/experiment.py ARGUMENTS`: the verb `raycadian experiment` as a job."""

import sys

from raycadian.cli.main import main

if __name__ == "__main__":
    main(["experiment", *sys.argv[1:]])
