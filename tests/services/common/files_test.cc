// Files, digests, prompt lists, port files.
#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/common/digest.h"
#include "services/common/file_io.h"
#include "services/common/file_manifest.h"
#include "services/common/port_file.h"
#include "services/common/prompts.h"
#include "services/common/utf8.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace d2g::common {
namespace {

using ::d2g::testing::IsOk;
using ::d2g::testing::IsOkAndHolds;
using ::d2g::testing::StatusIs;
using ::d2g::testing::TempDir;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

size_t CountFiles(const std::string& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

TEST(FileIoTest, WritesWholeOrNothing) {
  const TempDir dir;
  const std::string path = dir.File("a.json");
  ASSERT_THAT(WriteFileAtomically(path, "one"), IsOk());
  ASSERT_THAT(WriteFileAtomically(path, "two"), IsOk());
  EXPECT_THAT(ReadFile(path), IsOkAndHolds(std::string("two")));
  EXPECT_EQ(CountFiles(dir.path()), 1u);
  // A folder in the way: the error names it and no temporary file stays.
  std::filesystem::create_directory(dir.File("folder"));
  EXPECT_THAT(WriteFileAtomically(dir.File("folder"), "x"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr(dir.File("folder"))));
  EXPECT_EQ(CountFiles(dir.path()), 2u);
}

TEST(FileIoTest, WritesWhatALinkMeansAndNothingThatIsNoFile) {
  const TempDir dir;
  ASSERT_THAT(WriteFileAtomically(dir.File("a"), "one"), IsOk());
  std::filesystem::create_symlink("a", dir.File("link"));
  ASSERT_THAT(WriteFileAtomically(dir.File("link"), "two"), IsOk());
  EXPECT_TRUE(std::filesystem::is_symlink(dir.File("link")));
  EXPECT_THAT(ReadFile(dir.File("a")), IsOkAndHolds(std::string("two")));
  ASSERT_EQ(::mkfifo(dir.File("pipe").c_str(), 0600), 0);
  EXPECT_THAT(WriteFileAtomically(dir.File("pipe"), "x"),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("is not a regular file")));
  EXPECT_EQ(CountFiles(dir.path()), 3u);
}

// A cluster's files hold what only its owner may see, if the owner wants it so.
TEST(FileIoTest, FilesHaveTheModeThatTheUmaskLeaves) {
  const TempDir dir;
  const mode_t umask_before = ::umask(077);
  const absl::Status written = WriteFileAtomically(dir.File("private"), "x");
  ::umask(022);
  ASSERT_THAT(written, IsOk());
  ASSERT_THAT(WriteFileAtomically(dir.File("public"), "x"), IsOk());
  ::umask(umask_before);
  struct stat info = {};
  ASSERT_EQ(::stat(dir.File("private").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0600u);
  ASSERT_EQ(::stat(dir.File("public").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0644u);
}

TEST(FileManifestTest, ComparesFilesWithTheList) {
  const TempDir dir;
  ASSERT_THAT(WriteFileAtomically(dir.File("a"), "one"), IsOk());
  ASSERT_THAT(WriteFileAtomically(dir.File("b"), "two"), IsOk());
  EXPECT_THAT(CheckFiles(dir.path(), {"a"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir.File("manifest.json"))));
  ASSERT_OK_AND_ASSIGN(const FileManifest manifest, DescribeFiles(dir.path(), {"a", "b"}));
  ASSERT_THAT(WriteFileAtomically(dir.File("manifest.json"), FormatManifest(manifest)), IsOk());
  EXPECT_THAT(CheckFiles(dir.path(), {"a", "b"}), IsOk());
  EXPECT_THAT(CheckFiles(dir.path(), {"c"}),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("manifest.json: does not list c")));
  EXPECT_THAT(CheckFiles(dir.path(), {"a"}, [] { return false; }),
              StatusIs(absl::StatusCode::kCancelled));
  ASSERT_THAT(WriteFileAtomically(dir.File("a"), "onE"), IsOk());
  ASSERT_THAT(WriteFileAtomically(dir.File("b"), "tw"), IsOk());
  EXPECT_THAT(CheckFiles(dir.path(), {"a"}),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr(dir.File("a") + ": XXH3-128 is " + Xxh3Hex128("onE") +
                                 ", its manifest says " + Xxh3Hex128("one"))));
  EXPECT_THAT(CheckFiles(dir.path(), {"b"}),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr(dir.File("b") + ": has 2 bytes, its manifest says 3")));
  std::filesystem::remove(dir.File("a"));
  EXPECT_THAT(CheckFiles(dir.path(), {"a"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir.File("a"))));
  EXPECT_THAT(ParseManifest("m", "{}"), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("files")));
}

TEST(FileIoTest, ErrorsNamePathAndReason) {
  const TempDir dir;
  EXPECT_THAT(ReadFile(dir.File("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(dir.File("none"))));
  ASSERT_THAT(WriteFileAtomically(dir.File("big"), std::string(100, 'x')), IsOk());
  EXPECT_THAT(ReadFile("/dev/zero", /*max_bytes=*/99),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit of 99")));
  EXPECT_THAT(ReadFile(dir.File("big"), /*max_bytes=*/99),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("99")));
  EXPECT_THAT(WriteFileAtomically(dir.File("no/such/file"), "x"),
              StatusIs(absl::StatusCode::kNotFound));
}

// Reference values of XXH3 with seed 0 (xxhsum -H2, xxhsum -H3 of empty input).
TEST(DigestTest, MatchesReferenceValues) {
  EXPECT_EQ(Xxh3Hex128(""), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(Xxh3(""), 0x2d06800538d394c2ULL);
  Digester digester;
  digester.Update("hello ");
  digester.Update("world");
  EXPECT_EQ(digester.Hex(), Xxh3Hex128("hello world"));
}

TEST(PromptsTest, LinesAndDigest) {
  ASSERT_OK_AND_ASSIGN(const PromptLines list, ParsePromptList("a red shoe\nein grünes Hemd\r\nx"));
  EXPECT_THAT(list.lines, ElementsAre("a red shoe", "ein grünes Hemd", "x"));
  EXPECT_EQ(list.digest, "xxh3-128:" + Xxh3Hex128("a red shoe\nein grünes Hemd\nx\n"));
}

TEST(PromptsTest, AListInPiecesIsTheSameWhereverItIsCut) {
  const std::string text = "a red shoe\r\nein grünes Hemd\n\xe2\x82\xac\r\nx\ry";
  ASSERT_OK_AND_ASSIGN(const PromptLines whole, ParsePromptList(text));
  EXPECT_THAT(whole.lines, ElementsAre("a red shoe", "ein grünes Hemd", "\xe2\x82\xac", "x\ry"));
  for (size_t first = 0; first <= text.size(); ++first) {
    for (size_t second = first; second <= text.size(); ++second) {
      std::vector<std::string> lines;
      const auto keep = [&lines](absl::string_view line) { lines.emplace_back(line); };
      PromptListChecker checker;
      const absl::string_view view = text;
      ASSERT_THAT(checker.Add(view.substr(0, first), keep), IsOk());
      ASSERT_THAT(checker.Add(view.substr(first, second - first), keep), IsOk());
      ASSERT_THAT(checker.Add(view.substr(second), keep), IsOk());
      ASSERT_OK_AND_ASSIGN(const std::string digest, checker.Finish(keep));
      ASSERT_EQ(digest, whole.digest);
      ASSERT_EQ(lines, whole.lines);
      ASSERT_EQ(checker.count(), 4);
    }
  }
}

TEST(PromptsTest, OfALineThatIsTooLongOnlyTheLengthIsKept) {
  const auto ignore = [](absl::string_view) {};
  PromptListChecker checker;
  // A \r may still be dropped.
  ASSERT_THAT(checker.Add("a\n" + std::string(kMaxPromptBytes, 'x') + "\r", ignore), IsOk());
  ASSERT_THAT(checker.Add("\n" + std::string(kMaxPromptBytes, 'x'), ignore), IsOk());
  ASSERT_THAT(checker.Add("yy", ignore), IsOk());
  ASSERT_THAT(checker.Add(std::string(5000, 'y'), ignore), IsOk());
  EXPECT_THAT(checker.Finish(ignore),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 3 has 6002 bytes")));
}

TEST(PromptsTest, BadListsNameLineAndLimit) {
  const auto expect = [](const std::string& text, const std::string& part) {
    EXPECT_THAT(ParsePromptList(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(part)))
        << part;
  };
  expect("", "no lines");
  expect("a\n\nb\n", "line 2 is empty");
  expect("a\n  \t\nb\n", "line 2 is empty");
  expect("a\n" + std::string(1001, 'x'), "line 2 has 1001 bytes; the limit is 1000");
  expect("a\n\xc3\x28\n", "line 2 is not UTF-8");
  expect("\xed\xa0\x80\n", "line 1 is not UTF-8");
  expect("\xc0\xaf\n", "line 1 is not UTF-8");
  expect("\xe2\x82\n", "line 1 is not UTF-8");
  expect(std::string("a\nb\0c\n", 6), "line 2 holds a NUL character");
  EXPECT_THAT(ParsePromptList(std::string(1000, 'x')), IsOk());
}

TEST(PromptsTest, BlankLinesAtTheEndAreNothing) {
  ASSERT_OK_AND_ASSIGN(const PromptLines plain, ParsePromptList("a\nb\n"));
  for (const char* text : {"a\nb\n\n", "a\nb\n\n \n\r\n", "a\nb\n  "}) {
    ASSERT_OK_AND_ASSIGN(const PromptLines list, ParsePromptList(text));
    EXPECT_EQ(list.digest, plain.digest) << text;
  }
  EXPECT_THAT(ParsePromptList(" \n\n"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no lines")));
}

TEST(PromptsTest, BadLinesAreCountedAndTheFirstThreeNamed) {
  const std::string text = "a\n\n" + std::string(1001, 'x') + "\n\xc3\x28\n\n\nb\n";
  EXPECT_THAT(
      ParsePromptList(text),
      StatusIs(absl::StatusCode::kInvalidArgument,
               "prompt list: 5 bad lines: line 2 is empty; line 3 has 1001 bytes; the limit "
               "is 1000; line 4 is not UTF-8; and 2 more"));
}

TEST(PromptsTest, AFileMayHaveTheLineEndsAndTheMarkOfAnyEditor) {
  ASSERT_OK_AND_ASSIGN(const PromptLines plain, ParsePromptFile("a red shoe\na bag\n"));
  EXPECT_THAT(plain.lines, ElementsAre("a red shoe", "a bag"));
  for (const char* text : {"a red shoe\ra bag\r", "a red shoe\r\na bag\r\n", "a red shoe\ra bag",
                           "\xef\xbb\xbf"
                           "a red shoe\na bag\n",
                           "a red shoe\r\na bag\r\r"}) {
    ASSERT_OK_AND_ASSIGN(const PromptLines list, ParsePromptFile(text));
    EXPECT_EQ(list.digest, plain.digest) << text;
  }
  EXPECT_THAT(ParsePromptFile("a\r\rb"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 2 is empty")));
}

TEST(PortFileTest, RoundTrip) {
  const TempDir dir;
  EXPECT_THAT(ReadPortFile(dir.File("p")), StatusIs(absl::StatusCode::kNotFound));
  ASSERT_THAT(WritePortFile(dir.File("p"), {.grpc = 12, .admin = 34}), IsOk());
  ASSERT_OK_AND_ASSIGN(const Ports ports, ReadPortFile(dir.File("p")));
  EXPECT_EQ(ports.grpc, 12);
  EXPECT_EQ(ports.admin, 34);
  ASSERT_THAT(WriteFileAtomically(dir.File("p"), "[]"), IsOk());
  EXPECT_THAT(ReadPortFile(dir.File("p")), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(WritePortFile("", {}), IsOk());
}

}  // namespace
}  // namespace d2g::common
