"""tools/demo_summary.py: what does not need a cluster. Run by ctest: demo_summary_test.py SOURCE_DIR"""

import contextlib
import copy
import http.server
import io
import json
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


def job(**changes):
    """As d2g describe --json prints it, as far as the summary reads it."""
    result = {
        "name": "jobs/a1", "state": "STATE_RUNNING", "checkpoint_step": "50",
        "stages": [{"stage": "STAGE_SIMULATE", "done": "256", "total": "256", "unit": "triples", "reused": "56",
                    "start_time": "2026-01-01T00:00:10Z", "end_time": "2026-01-01T00:00:30.5Z"},
                   {"stage": "STAGE_TRAIN", "done": "60", "total": "100", "unit": "steps", "reused": "0",
                    "start_time": "2026-01-01T00:00:30.500000001Z", "end_time": "2026-01-01T00:02:10.5Z"},
                   {"stage": "STAGE_EXPORT", "done": "0", "total": "1", "unit": "exports"}],
    }
    result.update(changes)
    return result


def with_done(simulated, trained, **changes):
    result = copy.deepcopy(job(**changes))
    result["stages"][0]["done"], result["stages"][1]["done"] = str(simulated), str(trained)
    return result


def printed(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        function(*arguments)
    return out.getvalue()


@contextlib.contextmanager
def files(**contents):
    """Writes each as NAME.json; gives a function from name to path, also of what was not written."""
    with tempfile.TemporaryDirectory() as name:
        for key, content in contents.items():
            (pathlib.Path(name) / f"{key}.json").write_text(json.dumps(content))
        yield lambda key: f"{name}/{key}.json"


@contextlib.contextmanager
def shard_serving(repeated):
    class Shard(Metrics):
        text = f"d2g_store_repeated_appends_total {repeated}\n".encode()

    server = http.server.HTTPServer(("127.0.0.1", 0), Shard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class Metrics(http.server.BaseHTTPRequestHandler):
    text = b'd2g_things_total{kind="a"} 2\nd2g_things_total{kind="b"} 3\nd2g_things_totally 9\n'

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.text)

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
        job_file, models = folder / "job.yaml", folder / "models"
        (models / "teacher").mkdir(parents=True)
        job_file.write_text("steps: 1")
        weights = models / "teacher/model.safetensors"
        weights.write_bytes(b"1")
        (models / "README.md").write_text("about")
        seen = [demo_summary.identity(job_file, models)]
        (models / "README.md").write_text("more about")
        assert demo_summary.identity(job_file, models) == seen[0], "depends on a text"
        weights.write_bytes(b"2")
        seen.append(demo_summary.identity(job_file, models))
        weights.rename(models / "teacher/other.safetensors")
        seen.append(demo_summary.identity(job_file, models))
        job_file.write_text("steps: 2")
        seen.append(demo_summary.identity(job_file, models))
        assert len(set(seen)) == 4, seen


def test_repeated_steps_are_those_after_the_last_checkpoint():
    before = job(checkpoint_step="50")
    for interrupted, expected in ((None, 0), (with_done(256, 50), 0), (with_done(256, 57), 7),
                                  (with_done(256, 40), 0),  # a checkpoint came after the last look
                                  (with_done(256, 57, name="jobs/b2"), 0)):
        assert demo_summary.repeated_steps(before, interrupted) == expected, (interrupted, expected)


def test_resuming_says_what_is_there():
    new = with_done(0, 0, checkpoint_step="0")
    with files(new=new, begun=with_done(64, 0, checkpoint_step="0"), trained=job(), seen=with_done(256, 57),
               done=job(state="STATE_SUCCEEDED")) as path:
        for before, interrupted, expected in (
                ("new", "none", "jobs/a1 is new\n"),
                ("begun", "none", "going on with jobs/a1: 64 triples are there, last checkpoint at step 0, "
                                  "0 steps to repeat\n"),
                ("trained", "seen", "going on with jobs/a1: 256 triples are there, last checkpoint at step 50, "
                                    "7 steps to repeat\n"),
                ("done", "none", "jobs/a1 is done already; ./run demo --fresh starts anew\n")):
            text = printed(demo_summary.resuming, path(before), path(interrupted))
            assert text == expected, text


def test_counts_tell_this_run_from_earlier_ones():
    with shard_serving(2) as one, shard_serving(3) as two:
        def cluster(restarts):
            return {"processes": [{"name": "coordinator", "admin": "nobody asks", "restarts": 0},
                                  {"name": "store-0", "admin": one, "restarts": restarts},
                                  {"name": "store-1", "admin": two, "restarts": 0}]}

        with files(before=with_done(64, 0), seen=with_done(256, 57), after=with_done(256, 100),
                   steady=cluster(0), restarted=cluster(1)) as path:
            assert printed(demo_summary.counts, path("before"), path("seen"), path("after"), path("steady")) == (
                "triples: 256 in all, 192 sealed in this run, 64 reused, 5 stored twice\n"
                "training: 100 steps in all, 50 in this run from step 50, 7 repeated since the last checkpoint of "
                "an interrupted run\n")
            assert printed(demo_summary.counts, path("before"), path("none"), path("after"), path("restarted")) == (
                "triples: 256 in all, 192 sealed in this run, 64 reused, 5 stored twice since the shards last "
                "started\n"
                "training: 100 steps in all, 50 in this run from step 50, 0 repeated since the last checkpoint of "
                "an interrupted run\n"
                "processes started again in this run: 1\n")
        with files(done=with_done(256, 100, checkpoint_step="100"), steady=cluster(0)) as path:
            text = printed(demo_summary.counts, path("done"), path("none"), path("done"), path("steady"))
            assert text.endswith("(all of it was done by an earlier run)\n"), text


def test_times_give_rates_of_what_was_made_and_leave_out_stages_without_an_end():
    midnight = demo_summary.seconds("2026-01-01T00:00:00Z")
    with files(after=job()) as path:
        def text(built):
            return printed(demo_summary.times, path("after"), midnight + built, midnight + 12, midnight + 140,
                           midnight + 141.25)

        assert text(built=5) == (
            "\nwhere the time went (stages may overlap)\n"
            "  cluster start           7.0 s  \n"
            "  simulate               20.5 s  9.8 triples/s\n"
            "  train            1 min 40.0 s  0.6 steps/s\n"
            "  cluster stop            1.2 s  \n"
            "  this run         2 min 16.2 s  after building\n"), text(built=5)
        assert text(built=11).endswith("(stages that an earlier run began include the time between the runs)\n")


def evaluation(frechet, agreement, paired, diversity):
    """Each argument: the intervals of the many-step teacher, its single step and the student."""
    def measures(row):
        names = ("frechet_distance", "class_agreement", "paired_distance", "diversity")
        values = zip(names, (frechet, agreement, paired, diversity))
        return [{"name": name, "value": sum(v[row]) / 2, "low": v[row][0], "high": v[row][1]} for name, v in values]

    return {"rows": [{"model": model, "measures": measures(row)}
                     for row, model in enumerate(("teacher_8", "teacher_1", "student_1"))]}


GOOD = dict(frechet=((8.6, 16.6), (47.3, 60.4), (8, 16)), agreement=((.96, .99), (.884, .934), (.967, .991)),
            paired=((0, 0), (.99, 1.06), (.045, .06)), diversity=((9.66, 11.1), (5.44, 6.38), (9.02, 10.4)))
BEATS = "the student beats one step of the teacher beyond the 95 % intervals on: "


def test_verdict_names_what_the_student_beats():
    assert demo_summary.verdict(evaluation(**GOOD)) == (
        BEATS + "frechet distance, class agreement, paired distance, diversity")


def test_verdict_needs_intervals_that_do_not_touch():
    for measure, student in (("frechet", (40, 47.3)), ("agreement", (.934, .99)), ("paired", (.9, .99)),
                             ("frechet", (70, 80)), ("agreement", (.7, .8)), ("paired", (2, 3)),
                             # As far from the many-step teacher's as the single step may be: below, above.
                             ("diversity", (7.8, 8.2)), ("diversity", (9, 14)), ("diversity", (20, 21))):
        words = {"frechet": "frechet distance", "agreement": "class agreement", "paired": "paired distance"}
        figures = dict(GOOD, **{measure: GOOD[measure][:2] + (student,)})
        others = [words.get(m, m) for m in GOOD if m != measure]
        expected = BEATS + ", ".join(others) + "; not on: " + words.get(measure, measure)
        assert demo_summary.verdict(evaluation(**figures)) == expected, demo_summary.verdict(evaluation(**figures))


def test_verdict_on_nothing_and_on_less():
    swapped = {name: (full, student, single) for name, (full, single, student) in GOOD.items()}
    assert demo_summary.verdict(evaluation(**swapped)) == (
        BEATS + "nothing; not on: frechet distance, class agreement, paired distance, diversity")
    report = evaluation(**GOOD)
    for row in report["rows"]:
        del row["measures"][1]
    assert demo_summary.verdict(report) == BEATS + "frechet distance, paired distance, diversity"
    del report["rows"][0]  # solutions of one step: the teacher's only row is its single step
    assert "no single step" in demo_summary.verdict(report)


for test_name, test in list(globals().items()):
    if test_name.startswith("test_"):
        begin = time.monotonic()
        test()
        print(f"{test_name}: passed in {time.monotonic() - begin:.1f} s")
