// A flag that asks running work to stop, polled by the work itself.
#pragma once

#include <atomic>
#include <exception>

namespace xai::treeshap {

// Thrown by work that saw the flag; whoever runs the work catches it and throws the half-made result away.
class Stopped : public std::exception {
 public:
  // Not inline: kernels of several instruction sets throw it, and must not share one compiled copy.
  ~Stopped() override;
  const char* what() const noexcept override;
};

class StopToken {
 public:
  void request_stop() { stop_.store(true, std::memory_order_relaxed); }
  // Inlined always: kernels of several instruction sets use it, and must not share one compiled copy.
  __attribute__((always_inline)) bool stop_requested() const { return stop_.load(std::memory_order_relaxed); }
  void throw_if_stopped() const {
    if (stop_requested()) throw Stopped();
  }

 private:
  std::atomic<bool> stop_{false};
};

}  // namespace xai::treeshap
