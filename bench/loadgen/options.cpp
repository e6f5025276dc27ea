#include "options.h"

#include <getopt.h>
#include <sched.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace loadgen {
namespace {

constexpr const char* kHelp =
    R"(usage: loadgen --target HOST:PORT|unix:PATH --method /PACKAGE.SERVICE/METHOD --bodies FILE
               (--callers N | --rate R) [options]

Loads a gRPC server with unary calls over cleartext HTTP/2 and prints what became of them as JSON.

  --bodies FILE         messages to send in turns, each after its length (uint32, little-endian)
  --first-body N        begin with the Nth of them
  --callers N           closed loop: N callers, each sending when it was answered
  --rate R              open loop: R calls a second, timed from when they were due
  --arrivals KIND       of an open loop: poisson (default) or constant
  --max-in-flight N     of an open loop (default 20000); what would pass it counts as not sent
  --connections K       (default 1)
  --seconds S           measured (default 1)
  --warmup S            before that (default 0)
  --grace S             calls under way at the end may still be answered (default 10)
  --timeout-ms T        gRPC's deadline of each call; the call is cancelled when it passes
  --budget-ms B         counts answers, and explanations, within it
  --explained           replies are xai.v1 PredictResponse: counts their explanations
  --seed N              of the arrivals
  --cpu N               run on this CPU only
)";

[[noreturn]] void refuse(const std::string& why) {
  std::fprintf(stderr, "loadgen: %s (--help says more)\n", why.c_str());
  std::exit(2);
}

double number(const char* name, const char* text, double least, double most) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end || !std::isfinite(value) || value < least || value > most) {
    refuse(std::string("--") + name + " " + text + ": not a number from " + std::to_string(least) + " to " +
           std::to_string(most));
  }
  return value;
}

}  // namespace

Options parse(int argc, char** argv) {
  enum Id {
    kTarget,
    kMethod,
    kBodies,
    kFirst,
    kCallers,
    kRate,
    kArrivals,
    kInFlight,
    kConnections,
    kSeconds,
    kWarmup,
    kGrace,
    kTimeout,
    kBudget,
    kExplained,
    kSeed,
    kCpu,
    kHelpWanted
  };
  static const option kKnown[] = {
      {"target", 1, nullptr, kTarget},
      {"method", 1, nullptr, kMethod},
      {"bodies", 1, nullptr, kBodies},
      {"first-body", 1, nullptr, kFirst},
      {"callers", 1, nullptr, kCallers},
      {"rate", 1, nullptr, kRate},
      {"arrivals", 1, nullptr, kArrivals},
      {"max-in-flight", 1, nullptr, kInFlight},
      {"connections", 1, nullptr, kConnections},
      {"seconds", 1, nullptr, kSeconds},
      {"warmup", 1, nullptr, kWarmup},
      {"grace", 1, nullptr, kGrace},
      {"timeout-ms", 1, nullptr, kTimeout},
      {"budget-ms", 1, nullptr, kBudget},
      {"explained", 0, nullptr, kExplained},
      {"seed", 1, nullptr, kSeed},
      {"cpu", 1, nullptr, kCpu},
      {"help", 0, nullptr, kHelpWanted},
      {nullptr, 0, nullptr, 0},
  };
  Options o;
  int which = 0, place = 0;
  while ((which = getopt_long(argc, argv, "", kKnown, &place)) != -1) {
    if (which == '?') std::exit(2);
    const auto value = [&](double least, double most) { return number(kKnown[place].name, optarg, least, most); };
    switch (which) {
      case kTarget:
        o.target = optarg;
        break;
      case kMethod:
        o.method = optarg;
        break;
      case kBodies:
        o.bodies = optarg;
        break;
      case kFirst:
        o.first_body = static_cast<uint64_t>(value(0, 1e15));
        break;
      case kCallers:
        o.callers = static_cast<uint32_t>(value(1, 1e5));
        break;
      case kRate:
        o.rate = value(1e-3, 1e6);
        break;
      case kArrivals:
        o.poisson = std::string(optarg) == "poisson";
        if (!o.poisson && std::string(optarg) != "constant") refuse("--arrivals is poisson or constant");
        break;
      case kInFlight:
        o.max_in_flight = static_cast<uint32_t>(value(1, 1e6));
        break;
      case kConnections:
        o.connections = static_cast<uint32_t>(value(1, 1e4));
        break;
      case kSeconds:
        o.seconds = value(1e-3, 1e6);
        break;
      case kWarmup:
        o.warmup_s = value(0, 1e6);
        break;
      case kGrace:
        o.grace_s = value(0, 1e6);
        break;
      case kTimeout:
        o.timeout_ms = value(1e-3, 9e4);
        break;  // as microseconds it has gRPC's eight digits at the most
      case kBudget:
        o.budget_ms = value(1e-3, 1e9);
        break;
      case kExplained:
        o.explained = true;
        break;
      case kSeed:
        o.seed = static_cast<uint64_t>(value(0, 1e15));
        break;
      case kCpu:
        o.cpu = static_cast<int>(value(0, CPU_SETSIZE - 1));
        break;
      default:
        std::fputs(kHelp, stdout);
        std::exit(0);
    }
  }
  if (optind != argc) refuse(std::string(argv[optind]) + ": options only");
  if (o.target.empty() || o.method.empty() || o.bodies.empty()) refuse("--target, --method and --bodies are needed");
  if ((o.callers > 0) == (o.rate > 0)) refuse("either --callers or --rate");
  return o;
}

}  // namespace loadgen
