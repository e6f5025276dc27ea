#include "treeshap/worker_pool.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace xai::treeshap {
namespace {

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

bool Job::wait_for(std::chrono::nanoseconds timeout) const {
  std::unique_lock lock(mutex_);
  return over_.wait_for(lock, timeout, [this] { return state_ != JobState::kPending; });
}

void Job::wait() const {
  std::unique_lock lock(mutex_);
  over_.wait(lock, [this] { return state_ != JobState::kPending; });
}

void Job::cancel() { stop_.request_stop(); }

JobState Job::state() const {
  std::lock_guard lock(mutex_);
  return state_;
}

std::exception_ptr Job::error() const {
  std::lock_guard lock(mutex_);
  return error_;
}

std::int64_t Job::started_ns() const {
  std::lock_guard lock(mutex_);
  return started_ns_;
}

std::int64_t Job::finished_ns() const {
  std::lock_guard lock(mutex_);
  return finished_ns_;
}

WorkerPool::WorkerPool(int threads) : owner_(getpid()), n_threads_(threads), shared_(std::make_unique<Shared>()) {
  if (threads < 1 || threads > 1024) throw std::invalid_argument("a worker pool has from 1 to 1024 threads");
  shared_->threads.reserve(threads);
  try {
    for (int i = 0; i < threads; ++i) {
      shared_->threads.emplace_back([this] { run(*shared_); });
#ifdef __linux__
      pthread_setname_np(shared_->threads.back().native_handle(), "xai-kernel");  // xai_service/perch.py looks for it
#endif
    }
  } catch (...) {  // no more threads to be had: those already there must end before they are forgotten
    close();
    throw;
  }
}

WorkerPool::~WorkerPool() {
  if (getpid() != owner_) {
    static_cast<void>(shared_.release());
    return;
  }
  close();
}

void WorkerPool::close() {
  {
    std::lock_guard lock(shared_->mutex);
    shared_->closing = true;
    for (auto& queue : shared_->queue)
      for (auto& job : queue) job->cancel();
  }
  shared_->ready.notify_all();
  for (std::thread& thread : shared_->threads) thread.join();
}

std::shared_ptr<Job> WorkerPool::submit(std::size_t items, std::size_t chunk, Priority priority, Job::Work work) {
  if (getpid() != owner_)
    throw std::logic_error("this worker pool was made before a fork; make a new one in the child process");
  if (items == 0 || chunk == 0) throw std::invalid_argument("a job needs at least one item and one item a chunk");
  std::shared_ptr<Job> job(new Job(items, chunk, std::move(work)));
  {
    std::lock_guard lock(shared_->mutex);
    shared_->queue[static_cast<int>(priority)].push_back(job);
  }
  if (items > chunk)
    shared_->ready.notify_all();
  else
    shared_->ready.notify_one();
  return job;
}

bool WorkerPool::busy() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->at_work >= n_threads_;
}

void WorkerPool::run(Shared& shared) {
  std::unique_lock lock(shared.mutex);
  for (;;) {
    shared.ready.wait(lock, [&] { return shared.closing || !shared.queue[0].empty() || !shared.queue[1].empty(); });
    auto& queue = shared.queue[0].empty() ? shared.queue[1] : shared.queue[0];
    if (queue.empty()) return;  // closing
    const std::shared_ptr<Job> job = queue.front();
    const std::size_t begin = job->next_;
    // What is left of a stopped job is given up at once, not a chunk at a time.
    const std::size_t end = job->stop_.stop_requested() ? job->items_ : std::min(begin + job->chunk_, job->items_);
    job->next_ = end;
    if (end == job->items_) queue.pop_front();
    ++shared.at_work;
    lock.unlock();
    run_chunk(*job, begin, end);
    lock.lock();
    --shared.at_work;
  }
}

void WorkerPool::run_chunk(Job& job, std::size_t begin, std::size_t end) {
  {
    std::lock_guard lock(job.mutex_);
    if (job.started_ns_ == 0) job.started_ns_ = now_ns();
  }
  bool stopped = false;
  std::exception_ptr error;
  try {
    job.stop_.throw_if_stopped();
    job.work_(begin, end, job.stop_);
  } catch (const Stopped&) {
    stopped = true;
  } catch (...) {
    error = std::current_exception();
    job.stop_.request_stop();  // the other chunks need not go on
  }
  {
    std::lock_guard lock(job.mutex_);
    job.stopped_ |= stopped;
    if (error && !job.error_) job.error_ = error;
    job.finished_ += end - begin;
    if (job.finished_ < job.items_) return;
    job.finished_ns_ = now_ns();
    job.work_ = nullptr;  // lets go of what the work owns, before anyone can see that the job is over
    job.state_ = job.error_ ? JobState::kFailed : job.stopped_ ? JobState::kCancelled : JobState::kDone;
  }
  job.over_.notify_all();  // without the lock, which those who wake up want
}

}  // namespace xai::treeshap
