#include "hpack.h"

#include <array>
#include <stdexcept>

namespace loadgen {
namespace {

// The code's lengths in bits, symbol by symbol, the last one the end of string (appendix B). The code is canonical:
// codes of one length ascend with the symbol, and longer ones go on where shorter ones end. So the lengths are all of
// it.
constexpr int kSymbols = 257;
constexpr int kLongest = 30;
constexpr std::array<uint8_t, kSymbols> kLengths = {
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6,  10, 10, 12, 13, 6,  8,  11, 10, 10, 8,  11, 8,  6,  6,  6,  5,  5,  5,  6,  6,  6,  6,  6,  6,  6,
    7,  8,  15, 6,  12, 10, 13, 6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
    7,  8,  7,  8,  13, 19, 13, 14, 6,  15, 5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,  6,  7,  6,  5,
    5,  6,  7,  7,  7,  7,  7,  15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24,
    24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22,
    23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26,
    27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23,
    22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30};

// Static table (appendix A): where values are that this client looks at, the answers' ":status".
constexpr uint64_t kStaticFields = 61;
constexpr uint64_t kFirstStatus = 8;
constexpr std::array<const char*, 7> kStatusValues = {"200", "204", "206", "304", "400", "404", "500"};

struct Canonical {
  std::array<uint32_t, kLongest + 2> first{};  // code of the first symbol of a length
  std::array<int, kLongest + 2> count{}, offset{};
  std::array<int, kSymbols> symbols{};

  Canonical() {
    for (uint8_t length : kLengths) ++count[length];
    uint32_t code = 0;
    int at = 0;
    for (int length = 1; length <= kLongest; ++length) {
      code <<= 1;
      first[length] = code;
      offset[length] = at;
      code += count[length];
      for (int symbol = 0; symbol < kSymbols; ++symbol) {
        if (kLengths[symbol] == length) symbols[at++] = symbol;
      }
    }
  }
};

// A cursor over one block.
class Reader {
 public:
  explicit Reader(std::string_view block) : block_(block) {}

  bool done() const { return at_ == block_.size(); }

  uint8_t peek() const {
    if (done()) throw std::runtime_error("HPACK: the block ends amid a field");
    return static_cast<uint8_t>(block_[at_]);
  }

  // Section 5.1: an integer in the low `bits` of this byte, and more bytes where it does not fit.
  uint64_t integer(int bits) {
    const uint64_t mask = (1u << bits) - 1;
    uint64_t value = peek() & mask;
    ++at_;
    if (value < mask) return value;
    for (int shift = 0; shift <= 28; shift += 7) {
      const uint8_t byte = peek();
      ++at_;
      value += static_cast<uint64_t>(byte & 0x7f) << shift;
      if (!(byte & 0x80)) return value;
    }
    throw std::runtime_error("HPACK: an integer is too long");
  }

  std::string text() {
    const bool huffman = peek() & 0x80;
    const uint64_t size = integer(7);
    if (size > block_.size() - at_) throw std::runtime_error("HPACK: a string passes the block's end");
    const std::string_view raw = block_.substr(at_, size);
    at_ += size;
    return huffman ? decode_huffman(raw) : std::string(raw);
  }

 private:
  std::string_view block_;
  size_t at_ = 0;
};

std::string static_name(uint64_t index) {
  if (index == 0 || index > kStaticFields) throw std::runtime_error("HPACK: a field of the table that is not there");
  return index >= kFirstStatus && index < kFirstStatus + kStatusValues.size() ? ":status" : "";
}

void append_text(std::string& block, std::string_view text) {
  size_t size = text.size();
  if (size < 0x7f) {
    block.push_back(static_cast<char>(size));
  } else {
    block.push_back(0x7f);
    for (size -= 0x7f; size >= 0x80; size >>= 7) block.push_back(static_cast<char>(0x80 | (size & 0x7f)));
    block.push_back(static_cast<char>(size));
  }
  block.append(text);
}

}  // namespace

void append_literal(std::string& block, std::string_view name, std::string_view value) {
  block.push_back(0);
  append_text(block, name);
  append_text(block, value);
}

std::vector<Field> decode_block(std::string_view block) {
  std::vector<Field> fields;
  Reader reader(block);
  while (!reader.done()) {
    const uint8_t kind = reader.peek();
    if (kind & 0x80) {  // indexed
      const uint64_t index = reader.integer(7);
      std::string name = static_name(index);
      fields.push_back({name, name.empty() ? "" : kStatusValues[index - kFirstStatus]});
    } else if ((kind & 0xe0) == 0x20) {  // the table's size
      if (reader.integer(5) != 0) throw std::runtime_error("HPACK: a table larger than was announced");
    } else {  // literal: to be indexed (in a table without room), not indexed, never indexed
      const uint64_t index = reader.integer(kind & 0x40 ? 6 : 4);
      std::string name = index ? static_name(index) : reader.text();
      fields.push_back({std::move(name), reader.text()});
    }
  }
  return fields;
}

std::string decode_huffman(std::string_view coded) {
  static const Canonical kCode;
  std::string text;
  uint32_t code = 0;
  int length = 0;
  bool ones = true;
  for (unsigned char byte : coded) {
    for (int bit = 7; bit >= 0; --bit) {
      const uint32_t one = byte >> bit & 1;
      code = code << 1 | one;
      ones = ones && one;
      if (++length > kLongest) throw std::runtime_error("HPACK: no such Huffman code");
      const uint32_t place = code - kCode.first[length];
      if (code < kCode.first[length] || place >= static_cast<uint32_t>(kCode.count[length])) continue;
      const int symbol = kCode.symbols[kCode.offset[length] + static_cast<int>(place)];
      if (symbol == kSymbols - 1) throw std::runtime_error("HPACK: the end of string within one");
      text.push_back(static_cast<char>(symbol));
      code = 0;
      length = 0;
      ones = true;
    }
  }
  if (length > 7 || !ones) throw std::runtime_error("HPACK: wrong padding of a Huffman code");
  return text;
}

}  // namespace loadgen
