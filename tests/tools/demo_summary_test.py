"""tools/demo_summary.py: what does not need a cluster. Run by ctest: demo_summary_test.py SOURCE_DIR"""

import http.server
import pathlib
import socket
import sys
import tempfile
import threading
import time

SOURCE = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(SOURCE / "tools"))
sys.dont_write_bytecode = True
import demo_summary  # noqa: E402


class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'd2g_things_total{kind="a"} 2\nd2g_things_total{kind="b"} 3\nd2g_things_totally 9\n')

    def log_message(self, *arguments):
        pass


def test_scrape_waits_for_a_process_that_is_started_again():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    result = []
    asking = threading.Thread(target=lambda: result.append(demo_summary.scrape(address, "d2g_things_total")))
    asking.start()
    asking.join(timeout=demo_summary.SCRAPE_PAUSE_SECONDS / 2)
    assert asking.is_alive(), "gave up at the first refusal"
    server = http.server.HTTPServer(("127.0.0.1", 0), Metrics, bind_and_activate=False)
    server.socket = listener
    listener.listen()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asking.join(timeout=demo_summary.SCRAPE_PATIENCE_SECONDS)
    server.shutdown()
    assert result == [5], result


def test_identity_follows_job_and_models():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        job, models = folder / "job.yaml", folder / "models"
        (models / "teacher").mkdir(parents=True)
        job.write_text("steps: 1")
        weights = models / "teacher/model.safetensors"
        weights.write_bytes(b"1")
        (models / "README.md").write_text("about")
        seen = [demo_summary.identity(job, models)]
        (models / "README.md").write_text("more about")
        assert demo_summary.identity(job, models) == seen[0], "depends on a text"
        weights.write_bytes(b"2")
        seen.append(demo_summary.identity(job, models))
        weights.rename(models / "teacher/other.safetensors")
        seen.append(demo_summary.identity(job, models))
        job.write_text("steps: 2")
        seen.append(demo_summary.identity(job, models))
        assert len(set(seen)) == 4, seen


for test_name, test in list(globals().items()):
    if test_name.startswith("test_"):
        begin = time.monotonic()
        test()
        print(f"{test_name}: passed in {time.monotonic() - begin:.1f} s")
