"""``python -m tests.learn.twice ...``: ``wsikd ...`` twice in the processes of one torchrun.

Each process takes many seconds to start. The second run is refused where the first wrote.
"""

import os
import sys

from wsikd.cli.main import main


def first():
    """Exit code of the command, which otherwise leaves the process by the shortest way."""
    leave, os._exit = os._exit, sys.exit
    try:
        main(sys.argv[1:], prog_name="wsikd")
    except SystemExit as end:
        return end.code
    finally:
        os._exit = leave


if __name__ == "__main__":
    print(f"FIRST ENDED {os.environ['RANK']} {first()}", flush=True)
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "1"  # where the processes meet a second time
    main(sys.argv[1:], prog_name="wsikd")
