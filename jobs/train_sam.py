"""`persam-ray train-sam` as a script, for `ray job submit`."""

import sys

from persam_ray.cli.main import main

if __name__ == "__main__":
    main(["train-sam", *sys.argv[1:]])
