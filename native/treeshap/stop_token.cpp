#include "treeshap/stop_token.h"

namespace xai::treeshap {

Stopped::~Stopped() = default;

const char* Stopped::what() const noexcept { return "stopped"; }

}  // namespace xai::treeshap
