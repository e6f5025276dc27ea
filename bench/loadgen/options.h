// What one run of the load generator does.
#pragma once

#include <cstdint>
#include <string>

namespace loadgen {

struct Options {
  std::string target;       // HOST:PORT or unix:PATH
  std::string method;       // /package.Service/Method
  std::string bodies;       // file of messages, each after its length as a little-endian uint32
  uint64_t first_body = 0;  // where their rotation begins
  uint32_t connections = 1;
  uint32_t callers = 0;            // closed loop: each sends its next call when the last one was answered
  double rate = 0;                 // open loop: calls a second, whatever the answers do
  bool poisson = true;             // arrivals of an open loop; else evenly spaced
  uint32_t max_in_flight = 20000;  // of an open loop; what would pass it is counted as not sent
  double warmup_s = 0;             // calls begun in it are not counted
  double seconds = 1;
  double grace_s = 10;     // how long calls under way at the end may still be answered
  double timeout_ms = 0;   // gRPC's deadline of each call; 0: none
  double budget_ms = 0;    // counts what was answered, and what explained, within it
  bool explained = false;  // replies are xai.v1 PredictResponse, whose explanations are counted
  uint64_t seed = 13;
  int cpu = -1;  // to run on; -1: any
};

// Returns the command line's options; prints the reason and exits for what it cannot mean, and for --help.
Options parse(int argc, char** argv);

}  // namespace loadgen
