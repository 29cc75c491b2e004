"""The include graph's rules find what they are for: check_project_test.py SOURCE_FOLDER"""
import sys

sys.path.insert(0, sys.argv[1] + "/tools")
import check_project as checks  # noqa: E402


def findings(check, texts):
    """What a check says of these files."""
    checks.read = texts.__getitem__
    return list(check(sorted(texts)))


def test_an_arrow_that_runs_up_is_found():
    texts = {"coordinator/rows/table.cc": '#include "coordinator/state/lease_table.h"\n',
             "coordinator/state/view.cc": '#include "coordinator/rows/table.h"\n'}
    said = findings(checks.check_includes, texts)
    assert said == ["coordinator/rows/table.cc:1: coordinator/rows must not include coordinator/state/lease_table.h"], said


def test_a_folder_that_no_layer_has_is_found():
    said = findings(checks.check_includes, {"worker/odds/ends.cc": ""})
    assert said == ["worker/odds/ends.cc: lies in no folder of LAYERS"], said


def test_a_folder_belongs_to_the_innermost_layer():
    assert checks.layer_of("services/store/client/triple_client.h") == "services/store/client"
    assert checks.layer_of("model/kernels/cuda/group_norm_nhwc.cu") == "model/kernels"


def test_a_circle_is_found():
    kept = checks.LAYERS["services/common"]
    checks.LAYERS["services/common"] = ("d2g", "worker/main")
    said = [line for line in checks.check_layers([f"{folder}/x.h" for folder in checks.LAYERS])]
    checks.LAYERS["services/common"] = kept
    assert len(said) == 1 and "runs in a circle" in said[0], said


def test_a_clock_in_the_state_is_found():
    texts = {"coordinator/state/a.cc": '#include "services/common/clock.h"\n',
             "coordinator/decider/b.cc": '#include "services/common/clock.h"\n'}
    said = findings(checks.check_purity, texts)
    assert len(said) == 1 and said[0].startswith("coordinator/state/a.cc:1: "), said


def test_libtorch_outside_its_folders_is_found():
    texts = {path: "#include <ATen/ATen.h>\n"
             for path in ("coordinator/rpc/a.cc", "model/files/b.cc", "model/network/c.cc")}
    said = [line.split(":")[0] for line in findings(checks.check_torch, texts)]
    assert said == ["coordinator/rpc/a.cc", "model/files/b.cc"], said


if __name__ == "__main__":
    tests = [value for name, value in list(globals().items()) if name.startswith("test_")]
    for test in tests:
        test()
    print(f"{len(tests)} passed, 0 failed")
