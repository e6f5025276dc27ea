// Native worker threads that run jobs while the submitting thread does something else.
//
// A job is a range of independent items, cut into chunks that any worker may take. Live jobs go before deferred ones at
// every chunk, so background work costs a live request at most one chunk's time. Nobody spins: idle workers sleep.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "treeshap/stop_token.h"

namespace xai::treeshap {

enum class Priority : std::uint8_t { kLive = 0, kDeferred = 1 };
enum class JobState : std::uint8_t { kPending, kDone, kCancelled, kFailed };

// The submitter's handle. What the work reads and writes must be owned by the work itself, since a cancelled job may
// still be running when its handle is gone.
class Job {
 public:
  // Items [begin, end); may throw, Stopped above all.
  using Work = std::function<void(std::size_t begin, std::size_t end, const StopToken& stop)>;

  // Waits until the job is over or the timeout has passed; true when it is over.
  bool wait_for(std::chrono::nanoseconds timeout) const;
  void wait() const;

  // Asks the job to stop. Returns at once; chunks under way see the token within some ten microseconds.
  void cancel();

  JobState state() const;
  // The error of a kFailed job, else null.
  std::exception_ptr error() const;
  // steady_clock nanoseconds of the first work and of the end; 0 when not yet.
  std::int64_t started_ns() const;
  std::int64_t finished_ns() const;

 private:
  friend class WorkerPool;
  Job(std::size_t items, std::size_t chunk, Work work) : items_(items), chunk_(chunk), work_(std::move(work)) {}

  const std::size_t items_, chunk_;
  Work work_;
  StopToken stop_;
  mutable std::mutex mutex_;
  mutable std::condition_variable over_;
  std::size_t next_ = 0;      // first item not yet taken; guarded by the pool
  std::size_t finished_ = 0;  // items done or given up
  bool stopped_ = false;
  JobState state_ = JobState::kPending;
  std::exception_ptr error_;
  std::int64_t started_ns_ = 0, finished_ns_ = 0;
};

class WorkerPool {
 public:
  explicit WorkerPool(int threads);  // 1 to 1024
  // Cancels what is queued and waits for what is running.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int threads() const { return n_threads_; }
  // Whether a job would have to wait: every worker is at work.
  bool busy() const;

  // Queues a job of `items` > 0 items, handed out `chunk` > 0 at a time. Throws std::logic_error in a process forked
  // after the pool was made: threads do not survive a fork.
  std::shared_ptr<Job> submit(std::size_t items, std::size_t chunk, Priority priority, Job::Work work);

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable ready;
    std::deque<std::shared_ptr<Job>> queue[2];  // by Priority
    bool closing = false;
    int at_work = 0;
    std::vector<std::thread> threads;
  };
  static void run(Shared& shared);
  static void run_chunk(Job& job, std::size_t begin, std::size_t end);
  void close();

  const pid_t owner_;
  const int n_threads_;
  // A forked child leaks it: the threads it speaks of are not there, and destroying what they wait on would hang.
  std::unique_ptr<Shared> shared_;
};

}  // namespace xai::treeshap
