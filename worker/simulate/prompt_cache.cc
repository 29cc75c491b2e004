#include "worker/simulate/prompt_cache.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/status_macros.h"

namespace d2g::simulate {

absl::StatusOr<std::shared_ptr<const common::PromptLines>> PromptCache::Get(
    const std::string& digest, int64_t prompt_count, absl::Time deadline) {
  std::shared_ptr<const common::PromptLines> prompts;
  {
    absl::MutexLock lock(&mutex_);
    if (prompts_ != nullptr && prompts_->digest == digest) prompts = prompts_;
  }
  if (prompts == nullptr) {
    const auto text = client_->FetchPromptList(digest, deadline);
    if (absl::IsNotFound(text.status())) {
      return absl::InvalidArgumentError(
          absl::StrCat("the coordinator does not have prompt list ", digest));
    }
    if (!text.ok()) return common::Annotate(text.status(), "cannot fetch the prompt list");
    D2G_ASSIGN_OR_RETURN(common::PromptLines parsed, common::ParsePromptList(*text));
    if (parsed.digest != digest) {
      return absl::InvalidArgumentError(
          absl::StrCat("prompt list ", digest, " arrived with digest ", parsed.digest));
    }
    prompts = std::make_shared<const common::PromptLines>(std::move(parsed));
    absl::MutexLock lock(&mutex_);
    prompts_ = prompts;
  }
  if (static_cast<int64_t>(prompts->lines.size()) != prompt_count) {
    return absl::InvalidArgumentError(absl::StrCat("prompt list ", digest, " has ",
                                                   prompts->lines.size(),
                                                   " lines, the dataset says ", prompt_count));
  }
  return prompts;
}

}  // namespace d2g::simulate
