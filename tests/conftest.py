import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Small networks lose most of their speed to a second thread on a busy machine.
torch.set_num_threads(1)
