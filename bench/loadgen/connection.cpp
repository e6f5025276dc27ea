#include "connection.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <utility>
#include <vector>

#include "hpack.h"

namespace loadgen {
namespace {

enum Type : uint8_t {
  kData,
  kHeaders,
  kPriority,
  kReset,
  kSettings,
  kPushPromise,
  kPing,
  kGoaway,
  kWindow,
  kContinued
};
enum Flag : uint8_t { kEndStream = 1, kAck = 1, kEndHeaders = 4, kPadded = 8, kHasPriority = 32 };
enum Setting : uint16_t { kTableSize = 1, kPush = 2, kMaxStreams = 3, kInitialWindow = 4, kMaxFrame = 5 };
enum Error : uint32_t { kCancel = 8, kRefusedStream = 7, kCalmDown = 11 };

constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr size_t kFrameHead = 9, kPrefix = 5;
constexpr uint32_t kOurMaxFrame = 16384;  // the default, which is not announced
// Wide enough that a server is never kept waiting for a window, with large replies too.
constexpr int64_t kStreamWindow = 1 << 20, kConnectionWindow = 16 << 20, kDefaultWindow = 65535;
constexpr size_t kLargestReply = 256u << 20, kLargestBlock = 256u << 10;
constexpr int64_t kLargestWindow = 0x7fffffff;

void put(std::string& out, uint64_t value, int bytes) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
}

uint32_t number(std::string_view bytes, size_t at, int size) {
  if (at + size > bytes.size()) throw std::runtime_error("HTTP/2: a frame is too short");
  uint32_t value = 0;
  for (int i = 0; i < size; ++i) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

std::string_view without_padding(uint8_t flags, std::string_view payload) {
  if (!(flags & kPadded)) return payload;
  const uint32_t padding = number(payload, 0, 1);
  if (padding + 1 > payload.size()) throw std::runtime_error("HTTP/2: more padding than payload");
  return payload.substr(1, payload.size() - 1 - padding);
}

}  // namespace

std::string request_headers(std::string_view authority, std::string_view method, double timeout_ms) {
  std::string block;
  append_literal(block, ":method", "POST");
  append_literal(block, ":scheme", "http");
  append_literal(block, ":path", method);
  append_literal(block, ":authority", authority);
  append_literal(block, "te", "trailers");
  append_literal(block, "content-type", "application/grpc");
  append_literal(block, "user-agent", "xai-loadgen");
  if (timeout_ms > 0) append_literal(block, "grpc-timeout", std::to_string(std::llround(timeout_ms * 1e3)) + "u");
  return block;
}

Connection::Connection(Owner& owner, std::string_view headers) : owner_(owner), headers_(headers) {
  output = kPreface;
  std::string settings;
  for (const auto& [setting, value] :
       {std::pair<Setting, uint64_t>{kTableSize, 0}, {kPush, 0}, {kInitialWindow, kStreamWindow}}) {
    put(settings, setting, 2);
    put(settings, value, 4);
  }
  frame(kSettings, 0, 0, settings);
  std::string increment;
  put(increment, kConnectionWindow - kDefaultWindow, 4);
  frame(kWindow, 0, 0, increment);
}

void Connection::frame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload) {
  put(output, payload.size(), 3);
  put(output, type, 1);
  put(output, flags, 1);
  put(output, stream, 4);
  output.append(payload);
}

uint32_t Connection::open(uint32_t call, std::string_view body) {
  const uint32_t id = next_stream_;
  next_stream_ += 2;
  frame(kHeaders, kEndHeaders, id, headers_);
  const auto at = streams_.try_emplace(id).first;
  at->second.call = call;
  at->second.body = body;
  at->second.send_window = initial_window_;
  send_body(id, at->second);
  return id;
}

void Connection::send_body(uint32_t id, Stream& stream) {
  while (!stream.body.empty()) {
    const int64_t window = std::min(send_window_, stream.send_window);
    if (window <= 0) {
      blocked_.push_back(id);
      return;
    }
    const auto size = std::min({static_cast<size_t>(window), size_t{max_frame_}, stream.body.size()});
    frame(kData, size == stream.body.size() ? kEndStream : 0, id, stream.body.substr(0, size));
    stream.body.remove_prefix(size);
    send_window_ -= static_cast<int64_t>(size);
    stream.send_window -= static_cast<int64_t>(size);
  }
}

void Connection::send_blocked() {
  std::deque<uint32_t> waiting;
  waiting.swap(blocked_);
  for (const uint32_t id : waiting) {
    const auto at = streams_.find(id);
    if (at != streams_.end()) send_body(id, at->second);
  }
}

void Connection::cancel(uint32_t stream) {
  if (streams_.erase(stream) == 0) return;
  std::string code;
  put(code, kCancel, 4);
  frame(kReset, 0, stream, code);
}

void Connection::receive(std::string_view bytes) {
  input_.append(bytes);
  std::string_view rest = input_;
  while (rest.size() >= kFrameHead) {
    const uint32_t size = number(rest, 0, 3);
    if (size > kOurMaxFrame) throw std::runtime_error("HTTP/2: a frame is larger than was announced");
    if (rest.size() < kFrameHead + size) break;
    on_frame(static_cast<uint8_t>(rest[3]), static_cast<uint8_t>(rest[4]), number(rest, 5, 4) & 0x7fffffff,
             rest.substr(kFrameHead, size));
    rest.remove_prefix(kFrameHead + size);
  }
  input_.erase(0, input_.size() - rest.size());
}

void Connection::on_frame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload) {
  if (continued_ && (type != kContinued || stream != continued_)) {
    throw std::runtime_error("HTTP/2: a frame amid a header block");
  }
  if (!settings_came_ && type != kSettings) throw std::runtime_error("not an HTTP/2 server: no settings came first");
  switch (type) {
    case kData:
      return on_data(flags, stream, payload);
    case kHeaders:
      payload = without_padding(flags, payload);
      if (flags & kHasPriority) payload.remove_prefix(std::min<size_t>(payload.size(), 5));
      return on_headers(flags, stream, payload);
    case kContinued:
      if (!continued_) throw std::runtime_error("HTTP/2: the continuation of nothing");
      return on_headers(static_cast<uint8_t>((flags & kEndHeaders) | (continued_flags_ & kEndStream)), stream, payload);
    case kReset:
      return on_reset(stream, payload);
    case kSettings:
      return on_settings(flags, payload);
    case kPing:
      if (!(flags & kAck)) frame(kPing, kAck, 0, payload);
      return;
    case kGoaway:
      return on_goaway(payload);
    case kWindow:
      return on_window_update(stream, payload);
    case kPushPromise:
      throw std::runtime_error("HTTP/2: a push, though they were switched off");
    default:  // priorities, and what may come to be
      return;
  }
}

void Connection::widen(uint32_t stream, int64_t& unacknowledged, int64_t window) {
  if (unacknowledged < window / 2) return;
  std::string increment;
  put(increment, static_cast<uint64_t>(unacknowledged), 4);
  frame(kWindow, 0, stream, increment);
  unacknowledged = 0;
}

void Connection::on_data(uint8_t flags, uint32_t id, std::string_view payload) {
  // Also what is of a stream that was cancelled, and padding, is taken from the windows.
  unacknowledged_ += static_cast<int64_t>(payload.size());
  widen(0, unacknowledged_, kConnectionWindow);
  const auto at = streams_.find(id);
  if (at == streams_.end()) return;
  Stream& stream = at->second;
  const std::string_view data = without_padding(flags, payload);
  if (stream.reply.size() + data.size() > kLargestReply) {
    std::string code;
    put(code, kCancel, 4);
    frame(kReset, 0, id, code);
    return end(at, kResourceExhausted, "the reply is too large for the load generator", {});
  }
  stream.reply.append(data);
  if (flags & kEndStream) return finish(at);
  stream.unacknowledged += static_cast<int64_t>(payload.size());
  widen(id, stream.unacknowledged, kStreamWindow);
}

void Connection::on_headers(uint8_t flags, uint32_t id, std::string_view payload) {
  if (block_.size() + payload.size() > kLargestBlock) throw std::runtime_error("HTTP/2: a header block is too large");
  block_.append(payload);
  continued_ = id;
  continued_flags_ = flags;
  if (flags & kEndHeaders) on_header_block();
}

void Connection::on_header_block() {
  const uint32_t id = std::exchange(continued_, 0);
  const std::vector<Field> fields = decode_block(block_);
  block_.clear();
  const auto at = streams_.find(id);
  if (at == streams_.end()) return;
  Stream& stream = at->second;
  for (const Field& field : fields) {
    if (field.name == ":status") {
      stream.http_status = std::atoi(field.value.c_str());
    } else if (field.name == "grpc-status") {
      const bool digits = !field.value.empty() && field.value.size() <= 4 &&
                          field.value.find_first_not_of("0123456789") == std::string::npos;
      stream.status = digits ? std::atoi(field.value.c_str()) : kUnknown;
    } else if (field.name == "grpc-message") {
      stream.message = field.value;
    }
  }
  stream.answered = true;
  if (continued_flags_ & kEndStream) finish(at);
}

void Connection::finish(Streams::iterator at) {
  Stream& stream = at->second;
  if (!stream.body.empty()) {  // answered before it was all sent: the rest is not wanted
    std::string code;
    put(code, kCancel, 4);
    frame(kReset, 0, at->first, code);
  }
  if (stream.http_status != 200) {
    return end(at, kUnknown, "HTTP status " + std::to_string(stream.http_status), {});
  }
  if (stream.status < 0) return end(at, kUnknown, "the reply ended without a grpc-status", {});
  if (stream.status != kOk) return end(at, stream.status, std::string(stream.message), {});
  const std::string_view reply = stream.reply;
  if (reply.size() < kPrefix || reply[0] != 0 || number(reply, 1, 4) != reply.size() - kPrefix) {
    return end(at, kInternal, "the reply is not one uncompressed message", {});
  }
  const std::string whole = std::move(stream.reply);
  end(at, kOk, {}, std::string_view(whole).substr(kPrefix));
}

void Connection::end(Streams::iterator at, int status, std::string_view why, std::string_view reply) {
  const uint32_t call = at->second.call;
  streams_.erase(at);
  owner_.ended(call, status, why, reply);
}

void Connection::on_settings(uint8_t flags, std::string_view payload) {
  if (flags & kAck) return;
  if (!std::exchange(settings_came_, true)) max_streams_ = SIZE_MAX;
  for (size_t at = 0; at + 6 <= payload.size(); at += 6) {
    const uint32_t value = number(payload, at + 2, 4);
    switch (number(payload, at, 2)) {
      case kMaxStreams:
        max_streams_ = value;
        break;
      case kInitialWindow:
        if (value > kLargestWindow) throw std::runtime_error("HTTP/2: a window is too large");
        for (auto& [id, stream] : streams_) stream.send_window += static_cast<int64_t>(value) - initial_window_;
        initial_window_ = value;
        break;
      case kMaxFrame:
        if (value < 16384 || value > 0xffffff) throw std::runtime_error("HTTP/2: an impossible frame size");
        max_frame_ = value;
        break;
      default:  // the rest binds nothing that this client does
        break;
    }
  }
  frame(kSettings, kAck, 0, {});
  send_blocked();
}

void Connection::on_window_update(uint32_t id, std::string_view payload) {
  const int64_t increment = number(payload, 0, 4) & 0x7fffffff;
  if (id == 0) {
    send_window_ += increment;
  } else {
    const auto at = streams_.find(id);
    if (at == streams_.end()) return;
    at->second.send_window += increment;
  }
  send_blocked();
}

void Connection::on_goaway(std::string_view payload) {
  const uint32_t last = number(payload, 0, 4) & 0x7fffffff;
  draining_ = true;
  std::vector<uint32_t> calls;
  for (auto at = streams_.begin(); at != streams_.end();) {
    if (at->first > last) {
      calls.push_back(at->second.call);
      at = streams_.erase(at);
    } else {
      ++at;
    }
  }
  for (const uint32_t call : calls) owner_.unprocessed(call);
}

void Connection::on_reset(uint32_t id, std::string_view payload) {
  const auto at = streams_.find(id);
  if (at == streams_.end()) return;
  const uint32_t code = number(payload, 0, 4);
  if (code == kRefusedStream) {
    const uint32_t call = at->second.call;
    streams_.erase(at);
    return owner_.unprocessed(call);
  }
  const int status = code == kCancel ? kCancelled : code == kCalmDown ? kResourceExhausted : kInternal;
  end(at, status, "RST_STREAM with code " + std::to_string(code), {});
}

void Connection::lost(std::string_view why) {
  draining_ = true;
  while (!streams_.empty()) end(streams_.begin(), kUnavailable, why, {});
}

}  // namespace loadgen
