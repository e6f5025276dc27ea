// One HTTP/2 connection of a gRPC client (RFC 9113, and gRPC over HTTP/2), without a socket or a clock: bytes received
// go in, bytes to send come out, and what became of each call is told to its owner.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>

namespace loadgen {

// gRPC's status codes that this client gives by itself.
enum Status : int {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kDeadlineExceeded = 4,
  kResourceExhausted = 8,
  kInternal = 13,
  kUnavailable = 14,
};

class Owner {
 public:
  virtual ~Owner() = default;
  // A call ended. `reply` is its message without gRPC's prefix, empty unless the status is 0; valid during the call.
  virtual void ended(uint32_t call, int status, std::string_view why, std::string_view reply) = 0;
  // The server says that it did not look at this call, so it may be sent again elsewhere.
  virtual void unprocessed(uint32_t call) = 0;
};

class Connection {
 public:
  // `headers`: the block that opens every call (`request_headers`).
  Connection(Owner& owner, std::string_view headers);

  bool can_open() const { return !draining_ && streams_.size() < max_streams_ && next_stream_ < 0x7fffffff; }
  bool draining() const { return draining_; }
  size_t open_streams() const { return streams_.size(); }

  // Opens a stream and returns its id. `body`, a message with gRPC's prefix, must outlive the call.
  uint32_t open(uint32_t call, std::string_view body);

  // Forgets a call and tells the server so; its owner hears nothing more of it.
  void cancel(uint32_t stream);

  // Takes what was received. Throws std::runtime_error for what no HTTP/2 server may send.
  void receive(std::string_view bytes);

  // The connection is lost: ends every call as UNAVAILABLE.
  void lost(std::string_view why);

  // Bytes to be sent; the caller takes them off the front.
  std::string output;

 private:
  struct Stream {
    uint32_t call;
    std::string_view body;  // what of it is still to be sent
    int64_t send_window;
    int64_t unacknowledged = 0;  // received bytes that the window was not yet widened by
    bool answered = false;       // headers came
    int http_status = 0;
    int status = -1;
    std::string message, reply;
  };
  using Streams = std::unordered_map<uint32_t, Stream>;

  void frame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload);
  void on_frame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload);
  void on_data(uint8_t flags, uint32_t stream, std::string_view payload);
  void on_headers(uint8_t flags, uint32_t stream, std::string_view payload);
  void on_header_block();
  void on_settings(uint8_t flags, std::string_view payload);
  void on_window_update(uint32_t stream, std::string_view payload);
  void on_goaway(std::string_view payload);
  void on_reset(uint32_t stream, std::string_view payload);
  void widen(uint32_t stream, int64_t& unacknowledged, int64_t window);
  void send_body(uint32_t id, Stream& stream);
  void send_blocked();
  void finish(Streams::iterator at);
  void end(Streams::iterator at, int status, std::string_view why, std::string_view reply);

  Owner& owner_;
  std::string_view headers_;
  std::string input_;
  Streams streams_;
  std::deque<uint32_t> blocked_;  // streams whose body waits for a window
  uint32_t next_stream_ = 1;
  bool draining_ = false;
  size_t max_streams_ = 0;  // until the server's settings come; if they name none, there is no limit
  bool settings_came_ = false;
  uint32_t max_frame_ = 16384;
  int64_t initial_window_ = 65535;
  int64_t send_window_ = 65535;
  int64_t unacknowledged_ = 0;
  uint32_t continued_ = 0;  // the stream whose header block goes on in the next frame
  uint8_t continued_flags_ = 0;
  std::string block_;
};

// The header block of every call: method is "/package.Service/Method"; `timeout_ms` 0 sends no deadline.
std::string request_headers(std::string_view authority, std::string_view method, double timeout_ms);

}  // namespace loadgen
