# cmake -DIN=FILE -DOUT=FILE.cc -P EmbedDescriptors.cmake: the file's bytes as the function that
# services/spec/spec_descriptors.h declares.
file(READ ${IN} _hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," _bytes "${_hex}")
string(REGEX REPLACE "((0x..,){20})" "\\1\n" _bytes "${_bytes}")
file(WRITE ${OUT} "#include \"services/spec/spec_descriptors.h\"

namespace d2g::spec {
namespace {

constexpr unsigned char kBytes[] = {
${_bytes}
};

}  // namespace

std::string_view SpecDescriptors() {
  return {reinterpret_cast<const char*>(kBytes), sizeof(kBytes)};
}

}  // namespace d2g::spec
")
