"""tools/lint.sh judges by how clang-format ends, not by what it prints. Run by ctest: lint_test.py SOURCE_DIR"""

import os
import pathlib
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(sys.argv[1])


def lint(clang_format):
    """Runs lint with a script in clang-format's place; its exit code and output."""
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "clang-format"
        program.write_text(f"#!/bin/sh\n{clang_format}\n")
        program.chmod(0o755)
        env = dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}", D2G_BOOTSTRAP="0")
        result = subprocess.run([SOURCE / "tools/lint.sh", "--no-tidy"], env=env, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        return result.returncode, result.stdout


for script, good, text in (
        ("exit 0", True, "files are formatted"),
        ("kill -SEGV $$", False, "clang-format failed"),
        ("echo 'no such style' >&2; exit 1", False, "clang-format failed: no such style"),
        ("echo 'cli/up.cc:7:3: error: code should be clang-formatted' >&2; exit 1", False, "cli/up.cc\n")):
    code, output = lint(script)
    assert (code == 0) == good and text in output, (script, code, output)
