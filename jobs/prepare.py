"""`ray job submit ... -- python jobs/prepare.py ARGUMENTS`: the verb `raycadian prepare` as a job."""

import sys

from raycadian.cli.main import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
