#include "link.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace loadgen {

Address Address::resolve(const std::string& target) {
  Address address;
  if (target.rfind("unix:", 0) == 0) {
    const std::string path = target.substr(5);
    auto* unix_address = reinterpret_cast<sockaddr_un*>(&address.storage);
    if (path.empty() || path.size() >= sizeof unix_address->sun_path) throw std::runtime_error(target + ": no path");
    unix_address->sun_family = AF_UNIX;
    std::memcpy(unix_address->sun_path, path.c_str(), path.size() + 1);
    address.size = sizeof(sockaddr_un);
    address.authority = "localhost";
    return address;
  }
  const size_t colon = target.rfind(':');
  if (colon == std::string::npos) throw std::runtime_error(target + ": neither HOST:PORT nor unix:PATH");
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  std::string host = target.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  const int error = getaddrinfo(host.c_str(), target.c_str() + colon + 1, &hints, &found);
  if (error) throw std::runtime_error(target + ": " + gai_strerror(error));
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.size = found->ai_addrlen;
  address.authority = target;
  freeaddrinfo(found);
  return address;
}

bool Link::connect(Owner& owner, std::string_view headers) {
  fd_ = socket(address_.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd_ < 0) {
    why = std::strerror(errno);
    return false;
  }
  if (address_.storage.ss_family != AF_UNIX) {
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address_.storage), address_.size) != 0 &&
      errno != EINPROGRESS) {
    why = std::string("cannot connect: ") + std::strerror(errno);
    close_socket();
    return false;
  }
  connecting_ = writing_ = true;
  http = std::make_unique<Connection>(owner, headers);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT;
  event.data.ptr = this;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, fd_, &event);
  return true;
}

bool Link::serve(uint32_t events) {
  if (!http) return true;
  if (connecting_) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
      drop(std::string("cannot connect: ") + std::strerror(error));
      return false;
    }
    if (!(events & EPOLLOUT)) return true;
    connecting_ = false;
  }
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
    static thread_local std::vector<char> buffer(256 << 10);
    while (true) {
      const ssize_t got = recv(fd_, buffer.data(), buffer.size(), 0);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
      if (got <= 0) {
        drop(got == 0 ? "the server closed the connection" : std::strerror(errno));
        return false;
      }
      try {
        http->receive({buffer.data(), static_cast<size_t>(got)});
      } catch (const std::runtime_error& error) {
        drop(error.what());
        return false;
      }
      if (static_cast<size_t>(got) < buffer.size()) break;
    }
  }
  return flush();
}

bool Link::flush() {
  if (!http || connecting_) return true;
  std::string& output = http->output;
  size_t sent = 0;
  while (sent < output.size()) {
    const ssize_t n = send(fd_, output.data() + sent, output.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n < 0) {
      drop(std::strerror(errno));
      return false;
    }
    sent += static_cast<size_t>(n);
  }
  output.erase(0, sent);
  watch(!output.empty());
  return true;
}

void Link::watch(bool writing) {
  if (writing == writing_) return;
  writing_ = writing;
  epoll_event event{};
  event.events = writing ? EPOLLIN | EPOLLOUT : EPOLLIN;
  event.data.ptr = this;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, fd_, &event);
}

void Link::drop(const std::string& reason) {
  why = reason;
  close_socket();
  const std::unique_ptr<Connection> gone = std::move(http);
  if (gone) gone->lost(reason);
}

void Link::close_socket() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
  connecting_ = writing_ = false;
}

}  // namespace loadgen
