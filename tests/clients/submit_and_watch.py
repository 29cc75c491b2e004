"""A complete client of d2g in another language: makes its stubs from the protos, uploads a prompt list,
submits a job and watches it to its end.

  submit_and_watch.py --protos proto --coordinator HOST:PORT JOB.json

JOB.json is a JobSpec by protobuf's JSON rules with absolute paths. Prints one line a change of state or
progress; exit code 0 when the job succeeded, 5 when it failed or was cancelled. Needs grpcio-tools.
"""

import argparse
import pathlib
import sys
import tempfile

import grpc
from google.protobuf import json_format
from grpc_tools import protoc


def load_stubs(protos):
    """Generates and imports the client's modules."""
    out = tempfile.mkdtemp(prefix="d2g-stubs-")
    files = sorted(str(p) for p in pathlib.Path(protos, "d2g").rglob("*.proto"))
    code = protoc.main(["protoc", f"-I{protos}", f"--python_out={out}", f"--grpc_python_out={out}", *files])
    if code != 0:
        sys.exit(f"protoc failed with {code}")
    sys.path.insert(0, out)
    from d2g.coordinator.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

    return job_pb2, job_service_pb2, job_service_pb2_grpc


def chunks(path, message, size=1 << 20):
    with open(path, "rb") as f:
        while data := f.read(size):
            yield message(chunk=data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--protos", required=True)
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--request-id", default="")
    parser.add_argument("job")
    arguments = parser.parse_args()
    job_pb2, service, service_grpc = load_stubs(arguments.protos)

    spec = json_format.Parse(pathlib.Path(arguments.job).read_text(), job_pb2.JobSpec())
    with grpc.insecure_channel(arguments.coordinator) as channel:
        jobs = service_grpc.JobServiceStub(channel)
        uploaded = jobs.UploadPromptList(chunks(spec.prompts.path, service.UploadPromptListRequest), timeout=60)
        spec.prompts.digest = uploaded.digest
        request = service.CreateJobRequest(spec=spec, request_id=arguments.request_id)
        job = jobs.CreateJob(request, timeout=600)
        print(f"submitted {job.name} with {uploaded.prompt_count} prompts", flush=True)
        last = None
        for job in jobs.WatchJob(service.WatchJobRequest(name=job.name)):
            state = job_pb2.Job.State.Name(job.state)
            line = "  ".join([state] + [f"{s.done}/{s.total} {s.unit}" for s in job.stages])
            if line != last:
                print(line, flush=True)
            last = line
    if job.state != job_pb2.Job.STATE_SUCCEEDED:
        print(f"{job.name} ended as {state}: {job.error}", flush=True)
        sys.exit(5)


if __name__ == "__main__":
    main()
