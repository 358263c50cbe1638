"""`ray job submit ... -- python jobs/train.py ARGUMENTS`: the verb `raycadian train` as a job."""

import sys

from raycadian.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
