"""The viewer's server in a thread of the test."""

import threading
from contextlib import contextmanager

from wsikd.grade.viewer.server import ViewServer


@contextmanager
def served(viewing):
    server = ViewServer(viewing)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        viewing.close()
