"""`persam-ray label` as a script, for `ray job submit`."""

import sys

from persam_ray.cli.main import main

if __name__ == "__main__":
    main(["label", *sys.argv[1:]])
