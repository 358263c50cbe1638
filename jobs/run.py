"""`ray job submit ... -- python jobs/run.py ARGUMENTS`: the verb `raycadian run` as a job."""

import sys

from raycadian.cli.main import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
