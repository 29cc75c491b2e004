"""tools/skipped_tests.py on a log as ctest writes it. Run by ctest: skipped_tests_test.py SOURCE_DIR"""

import pathlib
import subprocess
import sys
import tempfile

SCRIPT = pathlib.Path(sys.argv[1]) / "tools/skipped_tests.py"
LOG = """3/59 Testing: store_process_test
----------------------------------------------------------
[ RUN      ] Shard.Starts
[       OK ] Shard.Starts (20 ms)
[ RUN      ] Shard.ReadOnlyDisk
/src/tests/store_test.cc:348: Skipped
mounting needs root

[  SKIPPED ] Shard.ReadOnlyDisk (0 ms)
[ RUN      ] Group/Nccl.Sums/2
/src/tests/group_test.cc:104: Skipped

[  SKIPPED ] Group/Nccl.Sums/2 (1 ms)
[  PASSED  ] 1 test.
[  SKIPPED ] 2 tests, listed below:
[  SKIPPED ] Shard.ReadOnlyDisk
[  SKIPPED ] Group/Nccl.Sums/2
"""


def said(log):
    with tempfile.NamedTemporaryFile("w", suffix=".log") as file:
        file.write(log)
        file.flush()
        return subprocess.run([SCRIPT, file.name], check=True, capture_output=True, text=True).stdout


assert said(LOG) == ("skipped cases: 2\n"
                     "  Shard.ReadOnlyDisk: mounting needs root\n"
                     "  Group/Nccl.Sums/2: no reason given\n"), said(LOG)
assert said("[       OK ] Shard.Starts (20 ms)\n") == "skipped cases: 0\n"
