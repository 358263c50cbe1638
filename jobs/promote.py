"""`ray job submit ... -- python jobs/promote.py ARGUMENTS`: the verb `raycadian promote` as a job."""

import sys

from raycadian.cli.main import main

if __name__ == "__main__":
    main(["promote", *sys.argv[1:]])
