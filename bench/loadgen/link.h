// A connection on its socket: connects, reads, writes and says what epoll should wait for.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <memory>
#include <string>

#include "connection.h"

namespace loadgen {

// Where to connect to; resolved once.
struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
  std::string authority;

  // HOST:PORT or unix:PATH. Throws std::runtime_error.
  static Address resolve(const std::string& target);
};

class Link {
 public:
  Link(int epoll, const Address& address) : epoll_(epoll), address_(address) {}
  ~Link() { close_socket(); }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  // Begins to connect. False when that failed at once; `why` says how.
  bool connect(Owner& owner, std::string_view headers);

  // Serves what epoll reported. False when the connection is lost, and with it its calls.
  bool serve(uint32_t events);

  // Sends what the connection has to say. False as above.
  bool flush();

  // Gives up: its calls end as UNAVAILABLE.
  void drop(const std::string& reason);

  bool ready() const { return http && http->can_open(); }
  bool alive() const { return http != nullptr; }

  std::unique_ptr<Connection> http;  // null while there is no socket
  std::string why;                   // it was lost
  int64_t retry_ns = 0;

 private:
  void close_socket();
  void watch(bool writing);

  int epoll_;
  const Address& address_;
  int fd_ = -1;
  bool connecting_ = false, writing_ = false;
};

}  // namespace loadgen
