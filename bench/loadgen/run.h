// One run: makes calls as its schedule says, and counts what becomes of them.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "connection.h"
#include "histogram.h"
#include "link.h"
#include "options.h"
#include "reply.h"

namespace loadgen {

// Calls are counted when they were due in the measured time. Latencies begin when a call was due: in an open loop that
// is the schedule's time, whatever held it up, and in a closed loop the moment its caller was answered.
struct Counts {
  uint64_t due = 0;         // all of these
  uint64_t not_sent = 0;    // too many were under way: the generator's own limit
  uint64_t unanswered = 0;  // when the grace was over
  uint64_t resent = 0;      // the server had not looked at them (GOAWAY, REFUSED_STREAM)
  uint64_t reconnects = 0;
  std::map<int, uint64_t> statuses;    // by gRPC status
  std::map<int, std::string> reasons;  // the first message of each
  uint64_t expired = 0;                // ended by this client as the deadline passed; in statuses too, as 4
  uint64_t answered_in_time = 0;       // status 0 in the measured time, whenever they were due: for the rate
  uint64_t within_budget = 0, explained_within_budget = 0, explained = 0, malformed = 0;
  std::array<uint64_t, kExplanationStatuses> rows{};
  Histogram ok, failed, lag;  // lag: from due to handed to the connection
  struct Second {
    uint64_t ok = 0, failed = 0;
    int64_t worst_ns = 0;
  };
  std::vector<Second> seconds;  // by when they ended
};

class Run : private Owner {
 public:
  explicit Run(const Options& options);
  ~Run() override;

  // Runs to the end, or until a signal asks for it. Throws std::runtime_error when nothing can be connected to.
  const Counts& go();

  double measured_s() const;

 private:
  struct Call {
    int64_t due_ns = 0;
    uint32_t stream = 0;
    uint32_t caller = 0;
    uint32_t generation = 0;  // tells a call from the next one in its place
    std::string_view body;
    Link* link = nullptr;  // null while it waits
    bool live = false, counted = false;
  };
  struct Expiry {
    int64_t at_ns;
    uint32_t call, generation;
  };

  void ended(uint32_t call, int status, std::string_view why, std::string_view reply) override;
  void unprocessed(uint32_t call) override;

  void begin(int64_t due_ns, uint32_t caller);
  void arrivals(int64_t now);
  void expire(int64_t now);
  void dispatch(int64_t now);
  bool open_on(Link& link, uint32_t index, int64_t now);
  void replace_links(int64_t now);
  void count(Call& call, int status, std::string_view why, std::string_view reply, int64_t now);
  void release(uint32_t index);
  int64_t next_event(int64_t now) const;
  void load_bodies();

  const Options options_;
  Address address_;
  std::string headers_;
  std::string bodies_;  // each with gRPC's prefix
  std::vector<std::string_view> body_;
  uint64_t next_body_;
  int epoll_ = -1, timer_ = -1;
  std::vector<std::unique_ptr<Link>> links_, retiring_;
  std::vector<Call> calls_;
  std::vector<uint32_t> free_;
  std::deque<uint32_t> waiting_;
  std::deque<Expiry> expiries_;
  std::mt19937_64 random_;
  double next_due_ns_ = 0;
  int64_t measure_ns_ = 0, end_ns_ = 0;
  size_t in_flight_ = 0;
  uint32_t next_caller_ = 0;
  bool ever_connected_ = false;
  Counts counts_;
};

// Monotonic nanoseconds.
int64_t now_ns();

}  // namespace loadgen
