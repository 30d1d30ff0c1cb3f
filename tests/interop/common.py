"""What every check is given: the program under test and a folder that all checks of a run share."""
import os
import pathlib
import subprocess
import sys

GLADIUS = os.environ["GLADIUS"]
FOLDER = pathlib.Path(os.environ["GLADIUS_INTEROP_FOLDER"])  # what one check makes, later ones may use
ROOT = pathlib.Path(__file__).resolve().parents[2]           # of the source tree
CANNOT_RUN = 77


def gladius(*arguments, input=None, environment=None):
    """Runs `gladius ARGUMENTS` and returns its standard output; ends the check when it fails."""
    command = [GLADIUS, *map(str, arguments)]
    done = subprocess.run(command, input=input, capture_output=True, text=True,
                          env=dict(os.environ, **(environment or {})))
    if done.returncode != 0:
        sys.exit(f"exit status {done.returncode} from: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def cannot_run(reason):
    """Ends the check as not run, which is never a pass."""
    print(f"because {reason}")
    sys.exit(CANNOT_RUN)
