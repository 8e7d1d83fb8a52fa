// libtorch's profiler, and what its allocators know.

#include <ATen/record_function.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include "guarded.h"

namespace {

using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

std::set<ActivityType> activities(bool cuda) {
  std::set<ActivityType> wanted{ActivityType::CPU};
  if (cuda) {
    wanted.insert(ActivityType::CUDA);
  }
  return wanted;
}

}  // namespace

extern "C" {

// Begins to record operations of this thread and those that it starts, and on CUDA the kernels.
int gpart_profile_begin(int cuda) {
  return guarded([=] {
    ProfilerConfig config(ProfilerState::KINETO);
    torch::autograd::profiler::prepareProfiler(config, activities(cuda != 0));
    torch::autograd::profiler::enableProfiler(
        config, activities(cuda != 0), {at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION, at::RecordScope::USER_SCOPE});
  });
}

// Ends it and writes a Chrome trace; without a path nothing is written.
int gpart_profile_end(const char* path) {
  return guarded([=] {
    auto recorded = torch::autograd::profiler::disableProfiler();
    if (path != nullptr) {
      recorded->save(path);
    }
  });
}

// Begins a named span of this thread; null where nobody records.
void* gpart_span_begin(const char* name) {
  void* span = nullptr;
  guarded([&] {
    auto record = std::make_unique<at::RecordFunction>(at::RecordScope::USER_SCOPE);
    if (record->isActive()) {
      record->before(std::string(name));
      span = record.release();
    }
  });
  return span;
}

void gpart_span_end(void* span) {
  guarded([=] { delete static_cast<at::RecordFunction*>(span); });
}

// Most bytes that tensors had on a CUDA device since the last reset.
int gpart_peak_bytes(int device, uint64_t* bytes) {
  return guarded([=] {
    auto stats = c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    *bytes = static_cast<uint64_t>(stats.allocated_bytes[0].peak);
  });
}

// Gives memory that no tensor has back to the driver.
int gpart_empty_cache(void) {
  return guarded([] { c10::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache(); });
}

int gpart_reset_peak_bytes(int device) {
  return guarded([=] {
    c10::getDeviceAllocator(c10::DeviceType::CUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(device));
  });
}

}  // extern "C"
