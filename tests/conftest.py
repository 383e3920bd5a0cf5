import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from database_server import database, new_run, server, shared_database  # noqa: F401
from stores import new_store, where  # noqa: F401

# Small networks lose most of their speed to a second thread on a busy machine.
torch.set_num_threads(1)


# Tests of the page mostly wait, so others compute beside them. These take about half of their time.
HALF_OF_THE_PAGES = "test_page.py", "test_page_clips.py", "test_page_inspect.py"


def pytest_collection_modifyitems(items):
    """Begin with tests of the page."""
    items.sort(key=lambda item: "page" not in item.path.stem)  # what is alike keeps its order


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Share tests out by file, but those of the page as two: so many browsers run at a time."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return f"page {file.endswith(HALF_OF_THE_PAGES)}" if "page" in file else file

    return ByFile(config, log)
