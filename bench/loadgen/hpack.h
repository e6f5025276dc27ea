// As much of HPACK (RFC 7541) as a gRPC client needs that announces a header table of size 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace loadgen {

struct Field {
  std::string name;  // empty for a name of the static table, except ":status"
  std::string value;
};

// Appends one field as a literal that is not indexed (section 6.2.2), without Huffman coding.
void append_literal(std::string& block, std::string_view name, std::string_view value);

// Decodes one header block. Throws std::runtime_error for what is malformed, or refers to the table that is not there.
std::vector<Field> decode_block(std::string_view block);

// Decodes a Huffman-coded string (section 5.2, appendix B). Throws std::runtime_error.
std::string decode_huffman(std::string_view coded);

}  // namespace loadgen
