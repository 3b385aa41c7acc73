"""`persam-ray evaluate` as a script, for `ray job submit`."""

import sys

from persam_ray.cli.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
