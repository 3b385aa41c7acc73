"""`python -m persam_ray` is the command `persam-ray`."""

from persam_ray.cli.main import main

if __name__ == "__main__":
    main()
