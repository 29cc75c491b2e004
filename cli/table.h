// Aligned columns of text.
#pragma once

#include <string>
#include <vector>

namespace d2g::cli {

// Collects rows and prints them with aligned columns. Not thread-safe.
class Table {
 public:
  // Column headings. The first column and those in `left` are aligned left, the others right.
  explicit Table(std::vector<std::string> headings, const std::vector<size_t>& left = {});

  // A row; missing cells print empty. More cells than headings is a bug. What a terminal would obey
  // is written out (utf8.h), in headings too.
  void Add(std::vector<std::string> cells);

  bool empty() const { return rows_.size() == 1; }

  // Lines ended by \n, each starting with `indent`. Width counts code points, not bytes.
  std::string ToString(const std::string& indent = "") const;

 private:
  std::vector<std::vector<std::string>> rows_;
  std::vector<bool> left_;
};

}  // namespace d2g::cli
