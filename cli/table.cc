#include "cli/table.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "services/common/utf8.h"

namespace d2g::cli {
namespace {

// Code points in UTF-8 text.
size_t Width(const std::string& text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

Table::Table(std::vector<std::string> headings, const std::vector<size_t>& left)
    : left_(headings.size(), false) {
  left_[0] = true;
  for (size_t column : left) left_[column] = true;
  Add(std::move(headings));
}

void Table::Add(std::vector<std::string> cells) {
  assert(cells.size() <= left_.size());
  cells.resize(left_.size());
  for (std::string& cell : cells) cell = common::WithoutControls(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::ToString(const std::string& indent) const {
  std::vector<size_t> widths(left_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line = indent;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - Width(row[i]), ' ');
      if (i > 0) line += "  ";
      line += left_[i] ? row[i] + padding : padding + row[i];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace d2g::cli
