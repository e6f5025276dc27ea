// Reads what a load generator counts from an xai.v1 PredictResponse: how far each row's explanation has come.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace loadgen {

constexpr int kExplanationStatuses = 5;  // of xai.v1.ExplanationStatus
constexpr uint64_t kComplete = 1;
constexpr uint64_t kExplanationsField = 11, kStatusesField = 1;

// A walk over the fields of one protobuf message.
class Message {
 public:
  explicit Message(std::string_view bytes) : bytes_(bytes) {}

  // Goes to the next field; false at the end, and with `broken` set where the message is malformed.
  bool next() {
    if (bytes_.empty()) return false;
    uint64_t tag = 0, size = 0;
    if (!varint(tag)) return fail();
    field = tag >> 3;
    switch (tag & 7) {
      case 0:
        content = {};
        return varint(value) || fail();
      case 1:
        return take(8);
      case 2:
        return (varint(size) && take(size)) || fail();
      case 5:
        return take(4);
      default:
        return fail();
    }
  }

  // Takes a varint off the front.
  bool varint(uint64_t& out) {
    out = 0;
    for (int shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(bytes_.front());
      bytes_.remove_prefix(1);
      out |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (!(byte & 0x80)) return true;
    }
    return false;
  }

  bool empty() const { return bytes_.empty(); }

  uint64_t field = 0, value = 0;  // value: of a varint field
  std::string_view content;       // of a length-delimited field
  bool broken = false;

 private:
  bool take(uint64_t size) {
    if (size > bytes_.size()) return fail();
    content = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return true;
  }

  bool fail() {
    broken = true;
    return false;
  }

  std::string_view bytes_;
};

struct Explained {
  std::array<uint64_t, kExplanationStatuses> rows{};  // by status
  bool all_complete = false;
  bool broken = false;
};

inline Explained read_predict_response(std::string_view bytes) {
  Explained found;
  uint64_t rows = 0;
  const auto count = [&](uint64_t status) {
    ++rows;
    if (status < kExplanationStatuses) ++found.rows[status];
  };
  Message response(bytes);
  while (response.next()) {
    if (response.field != kExplanationsField) continue;
    Message explanations(response.content);
    while (explanations.next()) {
      if (explanations.field != kStatusesField) continue;
      if (explanations.content.empty()) {  // one by one
        count(explanations.value);
        continue;
      }
      Message packed(explanations.content);
      for (uint64_t status = 0; !packed.empty();) {
        if (!packed.varint(status)) {
          found.broken = true;
          break;
        }
        count(status);
      }
    }
    found.broken = found.broken || explanations.broken;
  }
  found.broken = found.broken || response.broken;
  found.all_complete = !found.broken && rows > 0 && found.rows[kComplete] == rows;
  return found;
}

}  // namespace loadgen
