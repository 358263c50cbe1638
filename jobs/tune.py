"""`ray job submit ... -- python jobs/tune.py ARGUMENTS`: the verb `raycadian tune` as a job."""

import sys

from raycadian.cli.main import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
