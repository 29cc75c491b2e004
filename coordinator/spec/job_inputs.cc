#include "coordinator/spec/job_inputs.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "model/folder/model_folder.h"

namespace d2g::coordinator {
namespace {

using common::FieldViolation;

// Empty when `path` is, or could be made, a folder that this process can write.
std::string OutputFolderProblem(const std::string& path) {
  std::string folder = path;
  struct stat info = {};
  while (stat(folder.c_str(), &info) != 0) {
    if (errno != ENOENT || folder == "/") {
      return absl::StrCat("\"", path, "\" cannot be used: ", folder, ": ", std::strerror(errno));
    }
    const size_t slash = folder.find_last_of('/');
    folder = slash == 0 ? "/" : folder.substr(0, slash);
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::StrCat("\"", path, "\" cannot be used: ", folder, " is not a folder");
  }
  if (access(folder.c_str(), W_OK | X_OK) != 0) {
    return absl::StrCat("\"", path, "\" cannot be written: ", folder, ": ", std::strerror(errno));
  }
  return "";
}

using Note = std::function<void(const char* field, std::string problem)>;

// What the job asks of a teacher that runs.
void CheckDemands(const v1::JobSpec& spec, const model::ModelFolder& teacher, const Note& note) {
  if (teacher.wants_pooled_text) {
    note("spec.teacher.path", absl::StrCat(spec.teacher().path(),
                                           " is a Stable Diffusion XL model: d2g runs those (d2g "
                                           "teacher, d2g generate) but does not distil them"));
  }
  if (spec.train().t0() >= teacher.train_timesteps) {
    note("spec.train.t0",
         absl::StrCat(spec.train().t0(), " is not from 0 to ", teacher.train_timesteps - 1,
                      ", the last timestep of the teacher's scheduler"));
  }
  if (spec.train().gan().output_scales() > teacher.decoder_scales) {
    note("spec.train.gan.output_scales",
         absl::StrCat(spec.train().gan().output_scales(), " is not from 0 to ",
                      teacher.decoder_scales, ", the scales of the teacher's decoder"));
  }
  const bool last = !spec.train().has_t0() || spec.train().t0() == teacher.train_timesteps - 1;
  if (spec.train().parametrization() == "x0" && last && teacher.last_timestep_has_no_x) {
    note("spec.train.parametrization",
         "x0 needs a t0 before the last timestep: the teacher predicts epsilon and its scheduler "
         "rescales to zero terminal SNR; choose sample, or set train.t0");
  }
  if (!spec.teacher().digest().empty() && spec.teacher().digest() != teacher.digest) {
    note("spec.teacher.digest", absl::StrCat(spec.teacher().digest(), " was asked for; ",
                                             spec.teacher().path(), " has ", teacher.digest));
  }
}

void CheckTeacher(const v1::JobSpec& spec, const Note& note, TeacherFacts* facts) {
  const std::string& path = spec.teacher().path();
  // Before all of it is read for the digest.
  if (const absl::Status runs = model::CheckPipeline(path); !runs.ok()) {
    return note("spec.teacher.path", std::string(runs.message()));
  }
  const absl::Status solves = model::CheckSolver(path, spec.simulate().solver());
  if (!solves.ok()) note("spec.simulate.solver", std::string(solves.message()));
  const auto teacher = model::InspectModelFolder(path);
  if (!teacher.ok()) return note("spec.teacher.path", std::string(teacher.status().message()));
  *facts = {teacher->digest, teacher->latent_channels, teacher->latent_height,
            teacher->latent_width};
  CheckDemands(spec, *teacher, note);
}

}  // namespace

JobInputs CheckJobInputs(const v1::JobSpec& spec, const common::PathPolicy& paths) {
  JobInputs inputs;
  const std::vector<FieldViolation> forbidden = common::PathViolations(paths, spec);
  inputs.violations = forbidden;
  // Nothing is read that may not be.
  const auto allowed = [&forbidden](const char* field) {
    return std::none_of(forbidden.begin(), forbidden.end(),
                        [&](const FieldViolation& violation) { return violation.field == field; });
  };
  const Note note = [&inputs](const char* field, std::string problem) {
    if (!problem.empty()) inputs.violations.push_back({field, std::move(problem)});
  };
  if (allowed("spec.teacher.path")) CheckTeacher(spec, note, &inputs.teacher);
  const auto& regression = spec.train().regression();
  if (regression.features_weight() > 0 && allowed("spec.train.regression.features_path")) {
    const int32_t channels = inputs.teacher.latent_channels;
    const absl::Status features = model::CheckFeatureNetwork(
        regression.features_path(), channels > 0 ? std::optional(channels) : std::nullopt);
    note("spec.train.regression.features_path", std::string(features.message()));
  }
  if (spec.evaluate().pictures() > 0 && allowed("spec.evaluate.evaluator_path")) {
    const absl::Status evaluator = model::CheckEvaluator(spec.evaluate().evaluator_path());
    note("spec.evaluate.evaluator_path", std::string(evaluator.message()));
  }
  if (allowed("spec.output_dir")) {
    note("spec.output_dir", OutputFolderProblem(spec.output_dir()));
  }
  return inputs;
}

}  // namespace d2g::coordinator
