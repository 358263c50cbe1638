"""`ray job submit ... -- python jobs/score.py ARGUMENTS`: the verb `raycadian score` as a job."""

import sys

from raycadian.cli.main import main

if __name__ == "__main__":
    main(["score", *sys.argv[1:]])
