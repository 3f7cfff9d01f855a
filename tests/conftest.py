"""One thread for every test and every process that a test starts: the cases are small, and waking threads costs more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
