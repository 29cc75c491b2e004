#include "model/files/weight_files.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <unordered_set>
#include <utility>
#include <vector>

#include "model/files/error.h"
#include "model/files/input_file.h"
#include "model/files/json_events.h"
#include "model/files/missing_file.h"
#include "model/files/safetensors_header.h"

namespace d2g::model {

namespace {

// Whether the name is front + something + back, and what that is.
bool HasBetween(std::string_view name, std::string_view front, std::string_view back,
                std::string* middle) {
  if (name.size() <= front.size() + back.size() || !name.starts_with(front) ||
      !name.ends_with(back)) {
    return false;
  }
  *middle = name.substr(front.size(), name.size() - front.size() - back.size());
  return true;
}

// The weight files of one stem in a folder: one file or a shard index for each variant, "" being
// the plain one.
struct Candidates {
  std::map<std::string, std::string> single;
  std::map<std::string, std::string> index;
  std::vector<std::string> foreign;  // in formats that d2g does not read

  std::set<std::string> variants() const {
    std::set<std::string> names;
    for (const auto& [variant, file] : single) names.insert(variant);
    for (const auto& [variant, file] : index) names.insert(variant);
    return names;
  }
};

Candidates FindCandidates(const std::string& folder, const std::string& stem) {
  Candidates files;
  std::error_code error;
  std::filesystem::directory_iterator entry(folder, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::string variant;
    if (name == stem + ".safetensors") {
      files.single[""] = name;
    } else if (name == stem + ".safetensors.index.json") {
      files.index[""] = name;
    } else if (HasBetween(name, stem + ".safetensors.index.", ".json", &variant)) {
      files.index[variant] = name;
    } else if (HasBetween(name, stem + ".", ".safetensors", &variant)) {
      // A shard, model.fp16-00001-of-00002.safetensors, is read through its index.
      if (variant.find("-of-") == std::string::npos) files.single[variant] = name;
    } else if (name.ends_with(".bin") || name.ends_with(".ckpt") || name.ends_with(".msgpack") ||
               name.ends_with(".h5") || name.ends_with(".pt") || name.ends_with(".pth") ||
               name.ends_with(".onnx") || name.ends_with(".gguf")) {
      files.foreign.push_back(name);
    }
  }
  if (error) throw IoError(folder + ": cannot be read: " + error.message());
  std::sort(files.foreign.begin(), files.foreign.end());
  return files;
}

std::string Joined(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

// The variant to read; throws where there is none or no single one.
std::string ChooseVariant(const Candidates& files, const std::string& folder,
                          const std::string& stem, const std::string& wanted) {
  const std::set<std::string> variants = files.variants();
  if (variants.contains(wanted)) return wanted;
  const std::string path = folder + "/" + stem + ".safetensors";
  if (!wanted.empty()) {
    std::set<std::string> named = variants;
    named.erase("");
    Fail(folder, ": has no variant \"", wanted, "\" of ", stem, ".safetensors (",
         named.empty() ? "it has no variants" : "it has " + Joined(named), ")");
  }
  if (variants.size() == 1) return *variants.begin();
  if (variants.size() > 1) {
    Fail(folder, ": has several variants of ", stem, ".safetensors (", Joined(variants),
         ") and no plain one: --variant chooses, jobs need a single one");
  }
  if (!files.foreign.empty()) {
    Fail(path, ": no such file; ", files.foreign.front(),
         " is not read: convert it to safetensors (save_pretrained with safe_serialization=True)");
  }
  throw MissingFile(path + ": no such file (and no " + stem + ".safetensors.index.json beside it)");
}

class IndexReader : public JsonEvents<IndexReader> {
 public:
  explicit IndexReader(const std::string& path) : path_(path) {}

  [[noreturn]] void FailWith(const std::string& what) const { Fail(path_, ": ", what); }

  void OnEvent(const JsonEvent& event) {
    switch (state_) {
      case State::kStart:
        if (event.kind != JsonEvent::Kind::kBegin || !event.is_object)
          FailWith("not a JSON object");
        state_ = State::kRoot;
        return;
      case State::kRoot:
        if (event.kind != JsonEvent::Kind::kKey) return;
        ignored_ = {};
        if (event.text != "weight_map") {
          state_ = State::kIgnored;
        } else if (has_map) {
          FailWith("weight_map comes twice");
        } else {
          state_ = State::kMap;
        }
        return;
      case State::kMap:
        if (event.kind != JsonEvent::Kind::kBegin || !event.is_object) {
          FailWith("weight_map is not an object");
        }
        has_map = true;
        state_ = State::kTensor;
        return;
      case State::kTensor:
        return OnTensor(event);
      case State::kIgnored: {
        bool too_deep = false;
        if (ignored_.Done(event, &too_deep)) state_ = State::kRoot;
        if (too_deep) FailWith("nested too deep");
        return;
      }
    }
  }

  bool has_map = false;
  std::map<std::string, std::set<std::string>> shards;

 private:
  enum class State { kStart, kRoot, kMap, kTensor, kIgnored };

  void OnTensor(const JsonEvent& event) {
    if (event.kind == JsonEvent::Kind::kEnd) {
      state_ = State::kRoot;
      return;
    }
    if (event.kind == JsonEvent::Kind::kKey) {
      name_ = event.text;
      if (!names_.insert(name_).second) {
        FailWith("weight_map names tensor " + Printable(name_) + " twice");
      }
      if (names_.size() > kMaxSafetensorsTensors) {
        FailWith("weight_map has more than " + std::to_string(kMaxSafetensorsTensors) + " tensors");
      }
      return;
    }
    if (event.kind != JsonEvent::Kind::kString) {
      FailWith("weight_map of " + Printable(name_) + " is not a file name");
    }
    if (event.text.empty() || event.text == "." || event.text == ".." ||
        event.text.find('/') != std::string_view::npos || HasControlCharacter(event.text)) {
      FailWith("shard \"" + Printable(event.text) + "\" is not a plain file name");
    }
    shards[std::string(event.text)].insert(name_);
  }

  const std::string& path_;
  State state_ = State::kStart;
  std::string name_;
  IgnoredJson ignored_;
  std::unordered_set<std::string> names_;
};

}  // namespace

std::map<std::string, std::set<std::string>> ParseShardIndex(std::string_view text,
                                                             const std::string& path) {
  IndexReader reader(path);
  reader.Read(text);
  if (!reader.has_map) Fail(path, ": has no \"weight_map\"");
  return std::move(reader.shards);
}

WeightFiles ChooseWeightFiles(const std::string& folder, const std::string& stem,
                              const std::string& variant) {
  const Candidates files = FindCandidates(folder, stem);
  const std::string chosen = ChooseVariant(files, folder, stem, variant);
  const auto single = files.single.find(chosen), index = files.index.find(chosen);
  // Where both are there transformers reads the file and diffusers the index.
  const bool prefers_file = stem == "model";
  WeightFiles result;
  if (single != files.single.end() && (prefers_file || index == files.index.end())) {
    result.shards[single->second];
    return result;
  }
  result.index = index->second;
  const std::string path = folder + "/" + result.index;
  result.shards = ParseShardIndex(ReadFileToString(path), path);
  return result;
}

}  // namespace d2g::model
