#include "worker/simulate/simulate_runner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "model/kernels/cuda_graph.h"
#include "services/common/clock.h"
#include "services/common/deadline.h"
#include "services/common/log.h"
#include "services/common/retry.h"
#include "services/common/status_macros.h"
#include "worker/common/torch_status.h"
#include "worker/lease/shard_patience.h"

namespace d2g::simulate {
namespace {

using coordinator::v1::SimulateWork;
using lease::CancelReason;
using lease::TaskContext;
using store::AppendSession;

constexpr int kDefaultBatchSize = 32;

absl::Status CheckWork(const SimulateWork& work) {
  const auto& range = work.range();
  if (range.begin() < 0 || range.end() <= range.begin()) {
    return absl::InvalidArgumentError(
        absl::StrCat("range [", range.begin(), ", ", range.end(), ") is empty or begins below 0"));
  }
  if (work.batch_size() < 0 || work.batch_size() > kMaxBatchSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch_size: ", work.batch_size(), " is not between 0 and ", kMaxBatchSize));
  }
  return absl::OkStatus();
}

// What came of a call to the task's shard. One that is full, that another store has taken over, or
// that lost what it had of the dataset refuses what is not wrong with the task: it is as good as
// away. What it refuses of this range alone (ABORTED) is no reason to wait for it.
absl::Status FromShard(const common::v1::ShardAddress& shard, const absl::Status& status) {
  if (status.ok() || absl::IsCancelled(status)) return status;
  const std::string message = absl::StrCat("shard ", shard.shard(), ": ", status.message());
  const bool away = common::IsRetryable(status) || absl::IsResourceExhausted(status) ||
                    absl::IsFailedPrecondition(status) || absl::IsNotFound(status);
  return absl::Status(away ? absl::StatusCode::kUnavailable : status.code(), message);
}

at::ScalarType TorchDtype(common::v1::DType dtype) {
  return dtype == common::v1::DTYPE_FP16   ? at::kHalf
         : dtype == common::v1::DTYPE_BF16 ? at::kBFloat16
                                           : at::kFloat;
}

// Ends a task's blocking calls when its lease is revoked. A worker that is told to stop lets those
// to the store go on: what is under way is worth the few seconds that the grace gives.
class CancelGuard {
 public:
  CancelGuard(TaskContext* context, absl::Duration flush_patience, absl::Notification* stop)
      : context_(context), flush_patience_(flush_patience), stop_(stop) {
    context_->SetOnCancel([this](CancelReason reason) {
      const bool revoked = reason == CancelReason::kRevoked;
      if (revoked) stop_->Notify();
      absl::MutexLock lock(&mutex_);
      if (session_ == nullptr) return;
      if (revoked) session_->Cancel();
      writer_->Release(flush_patience_);
    });
  }
  ~CancelGuard() { context_->SetOnCancel(nullptr); }

  // What a cancellation ends as well; null before their destruction.
  void Watch(AppendSession* session, BatchWriter* writer) {
    absl::MutexLock lock(&mutex_);
    session_ = session;
    writer_ = writer;
    if (session_ != nullptr && stop_->HasBeenNotified()) session_->Cancel();
    if (writer_ != nullptr && context_->cancelled()) writer_->Release(flush_patience_);
  }

 private:
  TaskContext* const context_;
  const absl::Duration flush_patience_;
  absl::Notification* const stop_;
  absl::Mutex mutex_;
  AppendSession* session_ ABSL_GUARDED_BY(mutex_) = nullptr;
  BatchWriter* writer_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace

SimulateRunner::SimulateRunner(SimulateRunnerOptions options,
                               coordinator::CoordinatorClient* client, common::Metrics* metrics)
    : options_(std::move(options)),
      metrics_(metrics),
      teachers_(options_.device, &metrics_.teacher_load_seconds),
      prompts_(client) {}

BatchSizer& SimulateRunner::SizerOf(const SimulateWork& work) {
  const std::string key =
      absl::StrCat(work.recipe().teacher_digest(), " ", work.recipe().solver().guidance() > 1, " ",
                   work.recipe().solver().compute_dtype(), " ", work.batch_size());
  if (!sizer_ || sizer_key_ != key) {
    const bool asked = work.batch_size() > 0;
    sizer_.emplace(BatchSizer::Options{.start = asked ? work.batch_size() : kDefaultBatchSize,
                                       .most = asked ? work.batch_size() : kMaxBatchSize,
                                       // A core is saturated by the first size already.
                                       .grows = !asked && options_.device.is_cuda()});
    sizer_key_ = key;
  }
  return *sizer_;
}

absl::StatusOr<SimulateRunner::Inputs> SimulateRunner::Load(const SimulateWork& work,
                                                            TaskContext* context) {
  D2G_RETURN_IF_ERROR(common::CheckModelPath(options_.paths, work.teacher_path()));
  TeacherOptions options;
  options.dtype = TorchDtype(work.recipe().solver().compute_dtype());
  D2G_ASSIGN_OR_RETURN(options.solver, CatchTorch([&work] {
                         return model::ParseSolverKind(work.recipe().solver().kind());
                       }));
  Inputs inputs;
  D2G_ASSIGN_OR_RETURN(
      inputs.teacher,
      teachers_.Get(work.teacher_path(), work.recipe().teacher_digest(), options, [context] {
        context->AddProgress();
        return !context->cancelled();
      }));
  D2G_RETURN_IF_ERROR(CheckRecipe(work.recipe(), *inputs.teacher));
  // Training and evaluation read the scheduler's file as DDIM does, whatever solver simulates.
  D2G_RETURN_IF_ERROR(CatchTorch([&inputs] { inputs.teacher->model.scheduler(); }));
  D2G_ASSIGN_OR_RETURN(inputs.prompts,
                       prompts_.Get(work.recipe().prompts_digest(), work.recipe().prompt_count(),
                                    common::DeadlineIn(options_.patience)));
  return inputs;
}

absl::Status SimulateRunner::Run(const coordinator::v1::Task& task, TaskContext* context,
                                 coordinator::v1::CompleteTaskRequest* result) {
  const SimulateWork& work = task.simulate();
  D2G_RETURN_IF_ERROR(CheckWork(work));
  context->SetPhase("load");
  D2G_ASSIGN_OR_RETURN(const Inputs inputs, Load(work, context));
  context->AddProgress();

  absl::Notification stop;
  CancelGuard guard(context, options_.flush_patience, &stop);
  store::TripleClient client(work.shard(), &stop);
  const absl::Duration patience = lease::ShardPatience(task, options_.patience);
  const absl::Time deadline = common::DeadlineIn(patience);
  const absl::Status known = client.OpenDataset(work.dataset(), work.recipe(), deadline).status();
  if (common::IsRetryable(known)) {
    return absl::UnavailableError(absl::StrCat(FromShard(work.shard(), known).message(),
                                               "; if it runs, check its --advertise-address"));
  }
  D2G_RETURN_IF_ERROR(FromShard(work.shard(), known));
  {
    store::AppendTarget target;
    target.dataset = work.dataset();
    target.range = work.range();
    target.range_epoch = work.range_epoch();
    target.producer = options_.producer;
    const auto opened = client.Append(target, deadline);
    D2G_RETURN_IF_ERROR(FromShard(work.shard(), opened.status()));
    store::AppendSession* const session = opened->get();
    BatchWriter writer(work.recipe(),
                       {.write =
                            [&](std::vector<store::v1::Triple> triples) {
                              return FromShard(
                                  work.shard(),
                                  session->Write(std::move(triples), common::DeadlineIn(patience)));
                            },
                        .cancel = [session] { session->Cancel(); }},
                       &metrics_);
    guard.Watch(session, &writer);
    const absl::Status filled = FillRange(work, inputs, patience, context, session, &writer);
    guard.Watch(nullptr, nullptr);
    metrics_.repeated_triples.Increment(static_cast<double>(session->totals().repeated));
    D2G_RETURN_IF_ERROR(filled);
  }
  context->SetPhase("seal");
  const absl::Duration start = common::RealClock::Get()->SteadyNow();
  const auto sealed = client.SealRange(work.dataset(), work.range(), options_.producer,
                                       common::DeadlineIn(patience));
  D2G_RETURN_IF_ERROR(FromShard(work.shard(), sealed.status()));
  *result->mutable_simulate() = *sealed;
  metrics_.seal_seconds.Observe(
      absl::ToDoubleSeconds(common::RealClock::Get()->SteadyNow() - start));
  metrics_.sealed_ranges.Increment();
  context->AddProgress();
  return absl::OkStatus();
}

absl::Status SimulateRunner::FillRange(const SimulateWork& work, const Inputs& inputs,
                                       absl::Duration patience, TaskContext* context,
                                       AppendSession* session, BatchWriter* writer) {
  const int64_t total = work.range().end() - work.range().begin();
  std::vector<int64_t> missing;
  for (int64_t index = work.range().begin(); index < work.range().end(); ++index) {
    if (!session->WasPresent(index)) missing.push_back(index);
  }
  metrics_.skipped_triples.Increment(static_cast<double>(session->present_count()));
  const auto report_durable = [&] {
    const AppendSession::Totals durable = session->totals();
    context->SetDone(session->present_count() + durable.written + durable.repeated, total);
  };
  report_durable();
  context->SetPhase("simulate");
  BatchSizer& sizer = SizerOf(work);
  const auto on_step = [&] {
    context->AddProgress();
    report_durable();
    return !context->cancelled() && writer->status().ok();
  };
  const auto learn = [&] {
    for (const BatchWriter::Solved& solved : writer->TakeSolved()) {
      sizer.Solved(solved.count, solved.elapsed);
    }
  };
  size_t end = 0;
  bool retried = false;
  for (size_t begin = 0; begin < missing.size() && !context->cancelled(); begin = end) {
    end = std::min(begin + static_cast<size_t>(sizer.size()), missing.size());
    metrics_.batch_size.Set(sizer.size());
    const std::vector<int64_t> batch(missing.begin() + static_cast<ptrdiff_t>(begin),
                                     missing.begin() + static_cast<ptrdiff_t>(end));
    auto solved = SolveBatch(work.recipe(), *inputs.teacher, inputs.prompts->lines, batch, on_step,
                             &metrics_);
    if (context->cancelled()) break;
    D2G_RETURN_IF_ERROR(writer->status());
    // The record of a small batch may hold what is missing: once, since this one may make another.
    if (absl::IsResourceExhausted(solved.status()) && !retried && model::ReleaseGraphMemory()) {
      retried = true;
      end = begin;
      continue;
    }
    retried = false;
    if (absl::IsResourceExhausted(solved.status()) &&
        sizer.OutOfMemory(static_cast<int64_t>(batch.size()))) {
      common::LogWarn("a batch did not fit into memory: going on with smaller ones",
                      {{"batch", batch.size()},
                       {"next", sizer.size()},
                       {"reason", std::string(solved.status().message())}});
      metrics_.memory_retries.Increment();
      end = begin;
      continue;
    }
    if (!solved.ok()) return solved.status();
    // It is checked, encoded and sent, and made durable, while the next one is computed.
    const absl::Status written = writer->Write(*std::move(solved));
    if (context->cancelled()) break;
    D2G_RETURN_IF_ERROR(written);
    context->AddProgress();
    learn();
  }
  if (context->cancel_reason() == CancelReason::kRevoked) return context->CheckCancelled();
  context->SetPhase("append");
  const absl::Status flushed = writer->Flush();
  learn();
  if (!flushed.ok()) {
    D2G_RETURN_IF_ERROR(context->CheckCancelled());
    return flushed;
  }
  context->AddProgress();
  const absl::Duration start = common::RealClock::Get()->SteadyNow();
  const auto totals = session->Finish(
      common::DeadlineIn(context->cancelled() ? options_.flush_patience : patience));
  metrics_.append_wait_seconds.Observe(
      absl::ToDoubleSeconds(common::RealClock::Get()->SteadyNow() - start));
  report_durable();
  context->AddProgress();
  D2G_RETURN_IF_ERROR(context->CheckCancelled());
  return FromShard(work.shard(), totals.status());
}

}  // namespace d2g::simulate
