#include "run.h"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <utility>

namespace loadgen {
namespace {

constexpr int64_t kSecond = 1'000'000'000, kMillisecond = 1'000'000;
constexpr int64_t kReconnectNs = 20 * kMillisecond, kFirstConnectNs = 2 * kSecond;
constexpr size_t kPrefix = 5;
volatile std::sig_atomic_t stop_wanted = 0;

void on_signal(int) { stop_wanted = 1; }

}  // namespace

int64_t now_ns() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * kSecond + t.tv_nsec;
}

Run::Run(const Options& options)
    : options_(options),
      address_(Address::resolve(options.target)),
      headers_(request_headers(address_.authority, options.method, options.timeout_ms)),
      next_body_(options.first_body),
      random_(options.seed) {
  load_bodies();
  if (options.cpu >= 0) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(options.cpu, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus) != 0) throw std::runtime_error("cannot run on that CPU");
  }
  prctl(PR_SET_TIMERSLACK, 1UL);  // else a wait may end 50 µs late
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;
  epoll_ctl(epoll_, EPOLL_CTL_ADD, timer_, &event);
  std::signal(SIGTERM, on_signal);
  std::signal(SIGINT, on_signal);
}

Run::~Run() {
  links_.clear();
  retiring_.clear();
  close(timer_);
  close(epoll_);
}

void Run::load_bodies() {
  std::ifstream file(options_.bodies, std::ios::binary);
  if (!file) throw std::runtime_error(options_.bodies + ": " + std::strerror(errno));
  const std::string raw((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<std::pair<size_t, size_t>> places;
  for (size_t at = 0; at < raw.size();) {
    uint32_t size = 0;
    if (raw.size() - at < sizeof size) throw std::runtime_error(options_.bodies + ": ends amid a length");
    for (int i = 3; i >= 0; --i) size = size << 8 | static_cast<uint8_t>(raw[at + i]);
    at += sizeof size;
    if (raw.size() - at < size) throw std::runtime_error(options_.bodies + ": ends amid a message");
    places.emplace_back(bodies_.size(), kPrefix + size);
    bodies_.push_back(0);
    for (int shift = 24; shift >= 0; shift -= 8) bodies_.push_back(static_cast<char>(size >> shift));
    bodies_.append(raw, at, size);
    at += size;
  }
  if (places.empty()) throw std::runtime_error(options_.bodies + ": holds no message");
  for (const auto& [at, size] : places) body_.push_back(std::string_view(bodies_).substr(at, size));
}

const Counts& Run::go() {
  const int64_t began = now_ns();
  const auto ns = [](double s) { return static_cast<int64_t>(s * 1e9); };
  measure_ns_ = began + ns(options_.warmup_s);
  end_ns_ = measure_ns_ + ns(options_.seconds);
  next_due_ns_ = static_cast<double>(began);
  for (uint32_t i = 0; i < options_.connections; ++i) links_.push_back(std::make_unique<Link>(epoll_, address_));
  for (uint32_t i = 0; i < options_.callers; ++i) begin(began, i);
  std::vector<epoll_event> events(256);
  while (true) {
    int64_t now = now_ns();
    if (stop_wanted) end_ns_ = std::min(end_ns_, now);
    arrivals(now);  // before the end is looked at: also what was due just before it is made
    if (now >= end_ns_ && (in_flight_ == 0 || now >= end_ns_ + ns(options_.grace_s))) break;
    if (!ever_connected_ && now > began + kFirstConnectNs && !links_[0]->why.empty()) {
      throw std::runtime_error(options_.target + ": " + links_[0]->why);
    }
    replace_links(now);
    expire(now);
    dispatch(now);
    for (auto& link : links_) link->flush();
    for (auto& link : retiring_) link->flush();
    now = now_ns();
    const int64_t wait = next_event(now);
    if (wait > now) {
      itimerspec spec{};
      spec.it_value.tv_sec = wait / kSecond;
      spec.it_value.tv_nsec = wait % kSecond;
      timerfd_settime(timer_, TFD_TIMER_ABSTIME, &spec, nullptr);
    }
    const int n = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), wait > now ? -1 : 0);
    for (int i = 0; i < n; ++i) {
      if (events[i].data.ptr) {
        static_cast<Link*>(events[i].data.ptr)->serve(events[i].events);
      } else {
        uint64_t ticks = 0;
        if (read(timer_, &ticks, sizeof ticks) < 0) continue;  // it was set anew meanwhile
      }
    }
  }
  for (const Call& call : calls_) counts_.unanswered += call.live && call.counted;
  return counts_;
}

double Run::measured_s() const { return static_cast<double>(std::max<int64_t>(end_ns_ - measure_ns_, 0)) / 1e9; }

// When to wake at the latest, if nothing is received.
int64_t Run::next_event(int64_t now) const {
  int64_t next = now + 100 * kMillisecond;  // signals, and the end's grace
  if (now < end_ns_) next = std::min(next, end_ns_);
  if (options_.rate > 0 && now < end_ns_) next = std::min(next, static_cast<int64_t>(next_due_ns_));
  if (!expiries_.empty()) next = std::min(next, expiries_.front().at_ns);
  for (const auto& link : links_) {
    if (!link->alive()) next = std::min(next, link->retry_ns);
  }
  return next;
}

void Run::begin(int64_t due_ns, uint32_t caller) {
  const bool counted = due_ns >= measure_ns_ && due_ns < end_ns_;
  counts_.due += counted;
  if (options_.rate > 0 && in_flight_ >= options_.max_in_flight) {
    counts_.not_sent += counted;
    return;
  }
  if (free_.empty()) {
    free_.push_back(static_cast<uint32_t>(calls_.size()));
    calls_.emplace_back();
  }
  const uint32_t index = free_.back();
  free_.pop_back();
  Call& call = calls_[index];
  call.due_ns = due_ns;
  call.caller = caller;
  call.body = body_[next_body_++ % body_.size()];
  call.link = nullptr;
  call.live = true;
  call.counted = counted;
  ++in_flight_;
  waiting_.push_back(index);
  if (options_.timeout_ms > 0) {
    expiries_.push_back({due_ns + static_cast<int64_t>(options_.timeout_ms * 1e6), index, call.generation});
  }
}

void Run::arrivals(int64_t now) {
  if (options_.rate <= 0) return;
  const double gap = 1e9 / options_.rate;
  std::exponential_distribution<double> poisson(1.0 / gap);
  while (next_due_ns_ <= static_cast<double>(now) && next_due_ns_ < static_cast<double>(end_ns_)) {
    begin(static_cast<int64_t>(next_due_ns_), next_caller_++);
    next_due_ns_ += options_.poisson ? poisson(random_) : gap;
  }
}

void Run::expire(int64_t now) {
  while (!expiries_.empty() && expiries_.front().at_ns <= now) {
    const Expiry expiry = expiries_.front();
    expiries_.pop_front();
    Call& call = calls_[expiry.call];
    if (!call.live || call.generation != expiry.generation) continue;
    if (call.link && call.link->http) call.link->http->cancel(call.stream);
    counts_.expired += call.counted;
    ended(expiry.call, kDeadlineExceeded, "the deadline passed without an answer", {});
  }
}

void Run::dispatch(int64_t now) {
  while (!waiting_.empty()) {
    const uint32_t index = waiting_.front();
    const Call& call = calls_[index];
    if (call.live && !call.link) {  // else it expired while it waited
      bool opened = false;
      for (size_t i = 0; i < links_.size() && !opened; ++i) {
        opened = open_on(*links_[(call.caller + i) % links_.size()], index, now);
      }
      if (!opened) return;
    }
    waiting_.pop_front();
  }
}

bool Run::open_on(Link& link, uint32_t index, int64_t now) {
  if (!link.ready()) return false;
  Call& call = calls_[index];
  if (call.counted) counts_.lag.add(now - call.due_ns);
  ever_connected_ = true;
  call.link = &link;
  call.stream = link.http->open(index, call.body);
  return true;
}

// A connection that drains keeps its calls until they are answered; new ones go to another.
void Run::replace_links(int64_t now) {
  for (auto& link : links_) {
    if (link->alive() && link->http->draining()) {
      auto fresh = std::make_unique<Link>(epoll_, address_);
      fresh->retry_ns = link->retry_ns;  // a server that sends everyone away at once is not asked again and again
      retiring_.push_back(std::exchange(link, std::move(fresh)));
      ++counts_.reconnects;
    }
    if (!link->alive() && now >= link->retry_ns) {
      if (!link->why.empty() && ever_connected_) ++counts_.reconnects;
      link->retry_ns = now + kReconnectNs;
      link->connect(*this, headers_);
    }
  }
  const auto over = [](const auto& link) { return !link->alive() || link->http->open_streams() == 0; };
  for (auto& link : retiring_) {
    if (link->alive() && over(link)) link->flush();
  }
  retiring_.erase(std::remove_if(retiring_.begin(), retiring_.end(), over), retiring_.end());
}

void Run::unprocessed(uint32_t index) {
  Call& call = calls_[index];
  counts_.resent += call.counted;
  call.link = nullptr;
  waiting_.push_front(index);
}

void Run::ended(uint32_t index, int status, std::string_view why, std::string_view reply) {
  const int64_t now = now_ns();
  Call& call = calls_[index];
  count(call, status, why, reply, now);
  const uint32_t caller = call.caller;
  release(index);
  if (options_.callers > 0 && now < end_ns_ && !stop_wanted) begin(now, caller);
}

void Run::release(uint32_t index) {
  Call& call = calls_[index];
  call.live = false;
  call.link = nullptr;
  ++call.generation;
  free_.push_back(index);
  --in_flight_;
}

void Run::count(Call& call, int status, std::string_view why, std::string_view reply, int64_t now) {
  const int64_t latency = now - call.due_ns;
  if (now >= measure_ns_ && now < end_ns_) {
    counts_.answered_in_time += status == kOk;
    const auto second = static_cast<size_t>((now - measure_ns_) / kSecond);
    if (second >= counts_.seconds.size()) counts_.seconds.resize(second + 1);
    Counts::Second& bin = counts_.seconds[second];
    ++(status == kOk ? bin.ok : bin.failed);
    if (status == kOk) bin.worst_ns = std::max(bin.worst_ns, latency);
  }
  if (!call.counted) return;
  ++counts_.statuses[status];
  if (status != kOk) {
    counts_.reasons.try_emplace(status, why);
    counts_.failed.add(latency);
    return;
  }
  counts_.ok.add(latency);
  const bool within = static_cast<double>(latency) <= options_.budget_ms * 1e6;
  counts_.within_budget += within;
  if (!options_.explained) return;
  const Explained explained = read_predict_response(reply);
  counts_.malformed += explained.broken;
  for (int i = 0; i < kExplanationStatuses; ++i) counts_.rows[i] += explained.rows[i];
  counts_.explained += explained.all_complete;
  counts_.explained_within_budget += explained.all_complete && within;
}

}  // namespace loadgen
