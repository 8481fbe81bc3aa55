// The driver of a Jetson, its device code, and launches by name: the other half of driver_api.h.
//
// Nothing here is linked to CUDA: the driver is libcuda.so.1, which JetPack installs, and is looked for at the first
// call. Device code of the newest CUDA version that the driver knows is taken, so that one library serves JetPack 6
// (CUDA 12.6) and JetPack 7 (CUDA 13). A driver takes device code of its own version and of older ones; of newer ones it
// does not, and says so only when a kernel is loaded.
#include "driver_api.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

namespace pi0::driver {
namespace {

constexpr int most_images = 32, most_kernels = 256;
constexpr int compute_capability_major = 75, compute_capability_minor = 76;  // CU_DEVICE_ATTRIBUTE_...
constexpr int max_dynamic_shared_bytes = 8;                                  // CU_FUNC_ATTRIBUTE_...
constexpr size_t shared_without_asking = 48 * 1024;

struct Functions {
  int (*cuInit)(unsigned);
  int (*cuDriverGetVersion)(int *);
  int (*cuDeviceGetCount)(int *);
  int (*cuDeviceGet)(int *, int);
  int (*cuDeviceGetAttribute)(int *, int, int);
  int (*cuCtxGetDevice)(int *);
  int (*cuDevicePrimaryCtxRetain)(void **, int);
  int (*cuCtxSetCurrent)(void *);
  int (*cuGetErrorString)(int, const char **);
  int (*cuLibraryLoadData)(void **, const void *, void *, void **, unsigned, void *, void **, unsigned);
  int (*cuLibraryGetKernel)(void **, void *, const char *);
  int (*cuKernelGetAttribute)(int *, int, void *, int);
  int (*cuKernelSetAttribute)(int, int, void *, int);
  int (*cuLaunchKernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                        void **);
};

struct Kernel {
  const void *host;
  void *code;
  size_t shared;  // dynamic shared memory that it may take
};

// Not std::mutex, which would bring the C++ library, and with it a newer libc than some robots have.
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
struct Locked {
  Locked() { pthread_mutex_lock(&lock); }
  ~Locked() { pthread_mutex_unlock(&lock); }
};

Functions cuda;
bool initialized = false, loaded = false;
void *libraries[most_images];
int library_count = 0;
Kernel kernels[most_kernels];
int kernel_count = 0;
thread_local char explanation[512];
thread_local int explained = cudaSuccess;

template <class... Values> int explain(int error, const char *format, Values... values) {
  snprintf(explanation, sizeof explanation, format, values...);
  return explained = error;
}

const char *versions() {
  static thread_local char text[64];
  int length = 0;
  for (int64_t i = 0, last = 0; i < pi0_image_count; i++) {
    if (pi0_images[i].cuda == last) continue;
    last = pi0_images[i].cuda;
    length += snprintf(text + length, sizeof text - length, "%s%d.%d", length ? " and " : "",
                       static_cast<int>(last / 1000), static_cast<int>(last % 1000 / 10));
    if (length >= static_cast<int>(sizeof text)) break;
  }
  return text;
}

// Finds the driver and its functions.
int find_driver() {
  if (initialized) return cudaSuccess;
  void *file = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (!file) return explain(cudaErrorInsufficientDriver, "there is no CUDA driver on this machine (%s)", dlerror());
  const auto find = [&](auto &function, const char *name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(file, name));
    return function != nullptr;
  };
  int version = 0;
  if (!find(cuda.cuDriverGetVersion, "cuDriverGetVersion") || cuda.cuDriverGetVersion(&version) != cudaSuccess)
    return explain(cudaErrorInsufficientDriver, "libcuda.so.1 of this machine does not say its version");
  if (version < pi0_images[0].cuda)
    return explain(cudaErrorInsufficientDriver,
                   "the driver of this machine is of CUDA %d.%d; this library has device code of CUDA %s, the first of "
                   "which needs JetPack 6.1: update JetPack",
                   version / 1000, version % 1000 / 10, versions());
#define PI0_FIND(name) \
  if (!find(cuda.name, #name)) return explain(cudaErrorInsufficientDriver, "the CUDA driver has no " #name);
  PI0_FIND(cuInit)
  PI0_FIND(cuDeviceGetCount)
  PI0_FIND(cuDeviceGet)
  PI0_FIND(cuDeviceGetAttribute)
  PI0_FIND(cuCtxGetDevice)
  PI0_FIND(cuDevicePrimaryCtxRetain)
  PI0_FIND(cuCtxSetCurrent)
  PI0_FIND(cuGetErrorString)
  PI0_FIND(cuLibraryLoadData)
  PI0_FIND(cuLibraryGetKernel)
  PI0_FIND(cuKernelGetAttribute)
  PI0_FIND(cuKernelSetAttribute)
  PI0_FIND(cuLaunchKernel)
#undef PI0_FIND
  const int error = cuda.cuInit(0);
  initialized = error == cudaSuccess;
  return error;
}

// The GPU of this thread. Where the caller has none yet, it gets the first one, as from NVIDIA's runtime.
int device_of_thread(int &device) {
  int error = cuda.cuCtxGetDevice(&device);
  if (error == cudaSuccess) return error;
  int count = 0;
  void *context = nullptr;
  error = cuda.cuDeviceGetCount(&count);
  if (error == cudaSuccess && count == 0) return cudaErrorNoDevice;
  if (error == cudaSuccess) error = cuda.cuDeviceGet(&device, 0);
  if (error == cudaSuccess) error = cuda.cuDevicePrimaryCtxRetain(&context, device);
  return error == cudaSuccess ? cuda.cuCtxSetCurrent(context) : error;
}

// Gives the driver the device code of the newest CUDA version that it knows.
int load(int device) {
  int version = 0, major = 0, minor = 0;
  int error = cuda.cuDriverGetVersion(&version);
  if (error == cudaSuccess) error = cuda.cuDeviceGetAttribute(&major, compute_capability_major, device);
  if (error == cudaSuccess) error = cuda.cuDeviceGetAttribute(&minor, compute_capability_minor, device);
  if (error != cudaSuccess) return error;
  int64_t newest = 0;
  for (int64_t i = 0; i < pi0_image_count; i++)
    if (pi0_images[i].cuda <= version && pi0_images[i].architecture == 10 * major + minor && pi0_images[i].cuda > newest)
      newest = pi0_images[i].cuda;
  if (newest == 0)
    return explain(cudaErrorNoKernelImageForDevice,
                   "this library has no device code for compute capability %d.%d with a driver of CUDA %d.%d; it is for "
                   "Jetson Orin (8.7) from CUDA 12.6 on and Jetson Thor (11.0) from CUDA 13.0 on: make kernels builds "
                   "one for other GPUs",
                   major, minor, version / 1000, version % 1000 / 10);
  library_count = 0;
  for (int64_t i = 0; i < pi0_image_count; i++) {
    const pi0_image &image = pi0_images[i];
    if (image.cuda != newest || image.architecture != 10 * major + minor) continue;
    if (library_count == most_images) return cudaErrorSymbolNotFound;
    error = cuda.cuLibraryLoadData(&libraries[library_count], image.code, nullptr, nullptr, 0, nullptr, nullptr, 0);
    if (error != cudaSuccess) return error;
    library_count++;
  }
  return cudaSuccess;
}

int ready_on(int &device) {
  int error = find_driver();
  if (error == cudaSuccess) error = device_of_thread(device);
  if (error == cudaSuccess && !loaded) {
    error = load(device);
    loaded = error == cudaSuccess;
  }
  return error;
}

// The device code of a kernel, found once by its name.
int find_kernel(const void *host, Kernel *&kernel) {
  for (kernel = kernels; kernel < kernels + kernel_count; kernel++)
    if (kernel->host == host) return cudaSuccess;
  Dl_info symbol;
  if (!dladdr(host, &symbol) || symbol.dli_sname == nullptr || kernel_count == most_kernels)
    return explain(cudaErrorSymbolNotFound, "a kernel of this library has no name: build it again");
  *kernel = {host, nullptr, shared_without_asking};
  for (int i = 0; i < library_count; i++)
    if (cuda.cuLibraryGetKernel(&kernel->code, libraries[i], symbol.dli_sname) == cudaSuccess)
      return kernel_count++, cudaSuccess;
  return explain(cudaErrorSymbolNotFound, "this library has no device code of %s: build it again", symbol.dli_sname);
}

}  // namespace

int ready() {
  const Locked guard;
  int device;
  return ready_on(device);
}

const char *text(int error) {
  if (error == cudaSuccess) return "no error";
  if (error == explained) return explanation;
  const char *said = nullptr;
  if (cuda.cuGetErrorString && cuda.cuGetErrorString(error, &said) == cudaSuccess && said) return said;
  return error == cudaErrorInvalidValue ? "invalid argument" : "unknown error";
}

int attribute_of_device(int *value, int attribute) {
  const Locked guard;
  int device;
  const int error = ready_on(device);
  return error == cudaSuccess ? cuda.cuDeviceGetAttribute(value, attribute, device) : error;
}

int attribute_of_kernel(int *value, int attribute, const void *kernel) {
  const Locked guard;
  int device;
  Kernel *found;
  int error = ready_on(device);
  if (error == cudaSuccess) error = find_kernel(kernel, found);
  return error == cudaSuccess ? cuda.cuKernelGetAttribute(value, attribute, found->code, device) : error;
}

int launch(const void *kernel, dim3 grid, dim3 block, size_t shared, int64_t stream, void **arguments) {
  void *code;
  {
    const Locked guard;
    int device;
    Kernel *found;
    int error = ready_on(device);
    if (error == cudaSuccess) error = find_kernel(kernel, found);
    if (error == cudaSuccess && shared > found->shared) {
      error = cuda.cuKernelSetAttribute(max_dynamic_shared_bytes, static_cast<int>(shared), found->code, device);
      if (error == cudaSuccess) found->shared = shared;
    }
    if (error != cudaSuccess) return error;
    code = found->code;
  }
  return cuda.cuLaunchKernel(code, grid.x, grid.y, grid.z, block.x, block.y, block.z, static_cast<unsigned>(shared),
                             reinterpret_cast<void *>(stream), arguments, nullptr);
}

}  // namespace pi0::driver
