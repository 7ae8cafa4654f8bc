// A build of torch without CUDA has no device guard for CUDA tensors, and operations on them raise.
// This guard does nothing: there is one device, and it is always the current one.
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

struct EmulatedDeviceGuard final : public c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};

C10_REGISTER_GUARD_IMPL(CUDA, EmulatedDeviceGuard);

}  // namespace
