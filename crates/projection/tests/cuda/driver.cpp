// A double of the CUDA driver: device memory is this process's, and kernels are those of host.cpp, whatever image is
// loaded. What it gets wrong calls for answers with an error, so that the code that calls the real one is tested.
#include "host.cpp"

#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <map>
#include <string>

namespace {

const int SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
          INVALID_CONTEXT = 201, NOT_FOUND = 500;

struct Function {
    void* address;
    bool is_apply;
    unsigned shared;
};

char context, module_handle;
thread_local void* current = nullptr;
int retained = 0;
std::map<std::string, Function> functions;
std::map<u64, size_t> memory;

/// Whether so many bytes from an address on lie in one allocation.
bool is_ours(u64 address, size_t bytes) {
    auto after = memory.upper_bound(address);
    if (after == memory.begin()) return false;
    auto found = std::prev(after);
    return address + bytes <= found->first + found->second;
}

}  // namespace

#define IN_CONTEXT \
    if (current != &context || retained == 0) return INVALID_CONTEXT;

extern "C" {

int cuInit(unsigned) { return SUCCESS; }

int cuDriverGetVersion(int* version) {
    *version = 13000;
    return SUCCESS;
}

/// NVRTC asks the driver for what is not documented, and takes a refusal.
int cuGetExportTable(const void** table, const void*) {
    *table = nullptr;
    return NOT_FOUND;
}

int cuGetErrorString(int error, const char** text) {
    static thread_local char words[32];
    std::snprintf(words, sizeof words, "double's error %d", error);
    *text = words;
    return SUCCESS;
}

int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetName(char* name, int length, int) {
    std::snprintf(name, length, "double");
    return SUCCESS;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 1: *value = 24; break;             // threads per block
        case 16: *value = 2; break;             // multiprocessors
        case 75: *value = 9; break;             // compute capability, major
        case 76: *value = 0; break;             // minor
        case 81: *value = 128 << 10; break;     // shared memory per multiprocessor
        case 97: *value = 64 << 10; break;      // shared memory per block, on request
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

int cuDevicePrimaryCtxRetain(void** out, int) {
    ++retained;
    *out = &context;
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int) {
    // A program that leaks memory or a module would not see it here otherwise.
    if (--retained == 0 && (!memory.empty() || !functions.empty())) std::abort();
    return SUCCESS;
}

int cuCtxSetCurrent(void* wanted) {
    current = wanted;
    return SUCCESS;
}

int cuCtxSynchronize() {
    IN_CONTEXT
    return SUCCESS;
}

int cuModuleLoadData(void** module, const void* image) {
    IN_CONTEXT
    if (std::memcmp(image, "\x7f" "ELF", 4) != 0) return INVALID_IMAGE;
    *module = &module_handle;
    return SUCCESS;
}

int cuModuleUnload(void*) {
    IN_CONTEXT
    functions.clear();
    return SUCCESS;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
    IN_CONTEXT
    Dl_info here;
    dladdr((void*)cuInit, &here);
    void* address = dlsym(dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD), name);
    if (module != &module_handle || address == nullptr) return NOT_FOUND;
    Function& entry = functions[name];
    entry = Function{address, std::strncmp(name, "apply", 5) == 0, 48 << 10};
    *function = &entry;
    return SUCCESS;
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
    IN_CONTEXT
    if (attribute != 8 || value > 64 << 10) return INVALID_VALUE;
    ((Function*)function)->shared = value;
    return SUCCESS;
}

int cuMemAlloc_v2(u64* address, size_t bytes) {
    IN_CONTEXT
    if (bytes == 0) return INVALID_VALUE;
    void* taken = bytes > (size_t)1 << 40 ? nullptr : std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (taken == nullptr) return OUT_OF_MEMORY;
    std::memset(taken, 0xA5, bytes);
    memory[(u64)taken] = bytes;
    *address = (u64)taken;
    return SUCCESS;
}

int cuMemFree_v2(u64 address) {
    IN_CONTEXT
    if (memory.erase(address) == 0) return INVALID_VALUE;
    std::free((void*)address);
    return SUCCESS;
}

int cuMemcpyHtoD_v2(u64 to, const void* from, size_t bytes) {
    IN_CONTEXT
    if (!is_ours(to, bytes)) return INVALID_VALUE;
    std::memcpy((void*)to, from, bytes);
    return SUCCESS;
}

int cuMemcpyDtoH_v2(void* to, u64 from, size_t bytes) {
    IN_CONTEXT
    if (!is_ours(from, bytes)) return INVALID_VALUE;
    std::memcpy(to, (const void*)from, bytes);
    return SUCCESS;
}

int cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, void* stream) {
    IN_CONTEXT
    if (!is_ours(to, bytes) || !is_ours(from, bytes) || stream != nullptr) return INVALID_VALUE;
    std::memcpy((void*)to, (const void*)from, bytes);
    return SUCCESS;
}

int cuMemsetD8Async(u64 to, unsigned char value, size_t bytes, void* stream) {
    IN_CONTEXT
    if (!is_ours(to, bytes) || stream != nullptr) return INVALID_VALUE;
    std::memset((void*)to, value, bytes);
    return SUCCESS;
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned thread_y,
                   unsigned thread_z, unsigned shared, void* stream, void** parameters, void** extra) {
    IN_CONTEXT
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> guard(one_at_a_time);
    Function& kernel = *(Function*)function;
    bool fits = x > 0 && y == 1 && z == 1 && threads > 0 && threads <= 24 && thread_y == 1 && thread_z == 1;
    if (!fits || shared > kernel.shared || stream != nullptr || extra != nullptr) return INVALID_VALUE;
    host_launch(kernel.address, kernel.is_apply, x, threads, shared, parameters[0]);
    return SUCCESS;
}

int cuEventCreate(void** event, unsigned) {
    IN_CONTEXT
    *event = new u64(0);
    return SUCCESS;
}

int cuEventRecord(void* event, void*) {
    IN_CONTEXT
    static u64 calls = 0;
    *(u64*)event = ++calls;
    return SUCCESS;
}

int cuEventSynchronize(void* event) { return *(u64*)event > 0 ? SUCCESS : INVALID_VALUE; }

int cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    *milliseconds = (float)(*(u64*)end - *(u64*)start);
    return SUCCESS;
}

int cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

int cuEventDestroy_v2(void* event) {
    delete (u64*)event;
    return SUCCESS;
}
}
