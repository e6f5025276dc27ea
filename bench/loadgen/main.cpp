// A load generator for gRPC servers, cheap enough to share a small machine with one. See --help.
#include <sys/resource.h>

#include <cstdio>
#include <exception>
#include <string>

#include "options.h"
#include "run.h"

namespace {

using loadgen::Counts;
using loadgen::Histogram;

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const unsigned char c : text) {
    if (c < 0x20 || c >= 0x7f || c == '"' || c == '\\') {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
      out += escaped;
    } else {
      out.push_back(static_cast<char>(c));
    }
  }
  return out + "\"";
}

void print(const char* name, const Histogram& histogram) {
  std::printf(" \"%s\": {\"count\": %llu, \"mean\": %.3f, \"max\": %.3f, \"buckets\": [", name,
              static_cast<unsigned long long>(histogram.count()), histogram.mean_ns() / 1e3,
              static_cast<double>(histogram.max_ns()) / 1e3);
  const char* comma = "";
  histogram.each([&](uint64_t low, uint64_t high, uint64_t n) {
    std::printf("%s[%.3f,%.3f,%llu]", comma, static_cast<double>(low) / 1e3, static_cast<double>(high) / 1e3,
                static_cast<unsigned long long>(n));
    comma = ",";
  });
  std::printf("]},\n");
}

void print(const char* name, uint64_t value) {
  std::printf(" \"%s\": %llu,\n", name, static_cast<unsigned long long>(value));
}

void print(const Counts& counts, double measured_s, double wall_s) {
  std::printf("{\n \"seconds\": %.6f,\n", measured_s);
  print("due", counts.due);
  print("not_sent", counts.not_sent);
  print("unanswered", counts.unanswered);
  print("resent", counts.resent);
  print("reconnects", counts.reconnects);
  print("expired", counts.expired);
  print("answered_in_time", counts.answered_in_time);
  print("within_budget", counts.within_budget);
  print("explained", counts.explained);
  print("explained_within_budget", counts.explained_within_budget);
  print("malformed", counts.malformed);
  std::printf(" \"rows\": {\"complete\": %llu, \"deferred\": %llu, \"failed\": %llu, \"not_requested\": %llu},\n",
              static_cast<unsigned long long>(counts.rows[1]), static_cast<unsigned long long>(counts.rows[2]),
              static_cast<unsigned long long>(counts.rows[3]), static_cast<unsigned long long>(counts.rows[4]));
  const char* comma = "";
  std::printf(" \"statuses\": {");
  for (const auto& [status, n] : counts.statuses) {
    std::printf("%s\"%d\": %llu", comma, status, static_cast<unsigned long long>(n));
    comma = ", ";
  }
  comma = "";
  std::printf("},\n \"reasons\": {");
  for (const auto& [status, reason] : counts.reasons) {
    std::printf("%s\"%d\": %s", comma, status, quoted(reason).c_str());
    comma = ", ";
  }
  std::printf("},\n");
  print("ok_us", counts.ok);
  print("failed_us", counts.failed);
  print("lag_us", counts.lag);
  comma = "";
  std::printf(" \"each_second\": [");
  for (const auto& second : counts.seconds) {
    std::printf("%s[%llu,%llu,%.1f]", comma, static_cast<unsigned long long>(second.ok),
                static_cast<unsigned long long>(second.failed), static_cast<double>(second.worst_ns) / 1e3);
    comma = ",";
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  std::printf("],\n \"generator_cpu\": %.4f\n}\n", (seconds(usage.ru_utime) + seconds(usage.ru_stime)) / wall_s);
}

}  // namespace

int main(int argc, char** argv) {
  const loadgen::Options options = loadgen::parse(argc, argv);
  try {
    const int64_t began = loadgen::now_ns();
    loadgen::Run run(options);
    const Counts& counts = run.go();
    print(counts, run.measured_s(), static_cast<double>(loadgen::now_ns() - began) / 1e9);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "loadgen: %s\n", error.what());
    return 1;
  }
  return 0;
}
