// The conventions of every kernel's C interface.
//
//   PI0_API int pi0_<name>(pointers, int64_t sizes, float parameters, int64_t stream);
//
// Pointers are device pointers, inputs first, then `const`-less outputs; rows are contiguous. A function only enqueues
// its kernels on `stream` (a cudaStream_t as an integer, 0 for the default stream) and returns the cudaError_t of the
// launch as an int, 0 for success. It never throws, never allocates, never synchronizes, so that it may be captured into
// a CUDA graph; sizes that the kernel cannot do answer cudaErrorInvalidValue before anything is launched.
#pragma once

#include <stdint.h>

#define PI0_API extern "C" __attribute__((visibility("default")))

// Grows when a function changes its arguments or its meaning; `library.py` refuses another number.
#define PI0_LIBRARY_VERSION 2

// What a pointer of changing type points to, passed as an int64_t.
enum pi0_type { PI0_BF16 = 0, PI0_FP16 = 1, PI0_FP32 = 2, PI0_INT8 = 3 };

PI0_API int pi0_library_version(void);
PI0_API const char *pi0_error_string(int error);

// A GPU that can run this library is there: 0; otherwise the error that every other function would answer.
PI0_API int pi0_device_ready(void);
